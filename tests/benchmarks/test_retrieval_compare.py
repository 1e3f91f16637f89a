"""The command of the retrieval benchmark, from vectors to tables."""

from __future__ import annotations

import json

import pytest
from benchmarks.retrieval.__main__ import main
from benchmarks.retrieval.report import BEGIN, END, fill, markdown
from benchmarks.retrieval.results import keep, read, read_all

from feast_recsys.bundle.errors import InvalidArgument

ARGUMENTS = ["--kinds", "ivf_sq8", "--k", "10", "--tuning", "60", "--asked", "30", "--passes", "1"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    places = ["--cache", str(root / "cache"), "--out", str(root / "out")]
    assert main(["compare", "--data", "clustered-800", *places, *ARGUMENTS]) == 0
    return read(root / "out", "clustered-800")


def test_ours_stand_beside_the_bare_calls_and_the_libraries(result):
    rows = {row["name"]: row for row in result["unfiltered"]["rows"]}
    assert list(rows) == ["chosen", "our ivf_sq8", "our ivf_sq8, bare call", "faiss ivf_sq8", "exact search"]
    assert rows["our ivf_sq8"]["setting"]["effort"] == rows["our ivf_sq8, bare call"]["setting"]["effort"]
    assert all(row["low"] > 0.9 and row["p50"] <= row["p99"] for row in rows.values())
    cost = rows["our ivf_sq8"]["cost"]
    assert cost["disk"] > 800 * 64
    assert cost["seconds"] > 0


def test_exact_search_is_chosen_for_few_items(result):
    assert result["unfiltered"]["choice"] == {
        "spec": {"kind": "exact", "build": {}, "search": {}},
        "why": "fewer than 20,000 items",
    }


def test_nothing_of_ours_comes_back_that_must_not(result):
    rows = [row for case in result["filtered"]["cases"] for row in case["rows"] if row["name"].startswith("our")]
    assert {row["name"] for row in rows} == {"ours", "our ivf_sq8"}
    assert {row["wrong"] for row in rows} == {0}
    assert {row["recall"] for row in rows if row["name"] == "ours"} == {1.0}


def test_the_table_has_a_line_for_each_row(result):
    text = markdown(result)
    assert text.startswith("### clustered-800\n")
    for row in result["unfiltered"]["rows"]:
        assert f"| {row['name']}" in text
    for case in result["filtered"]["cases"]:
        assert f"| {case['title']} |" in text


def test_filters_need_the_parameters_of_searches_without(tmp_path, capsys):
    arguments = ["--data", "clustered-300", "--cache", str(tmp_path), "--out", str(tmp_path), "--parts", "filtered"]
    assert main(["compare", *arguments, *ARGUMENTS]) == 1
    assert "measure the part unfiltered first" in capsys.readouterr().err


def test_a_part_replaces_only_itself(tmp_path):
    keep(tmp_path, "a", "unfiltered", {"items": 3})
    keep(tmp_path, "a", "filtered", {"items": 3})
    keep(tmp_path, "a", "unfiltered", {"items": 4})
    keep(tmp_path, "b", "unfiltered", {"items": 9})
    assert json.loads((tmp_path / "a.json").read_text())["unfiltered"]["items"] == 4
    assert [document["data"] for document in read_all(tmp_path)] == ["b", "a"]
    assert read(tmp_path, "a")["filtered"]["items"] == 3


def test_the_place_in_the_page_is_filled_again():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n{END}\n"
    assert fill(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n{END}\n"
    assert fill(fill(page, "new"), "newer") == fill(page, "newer")


def test_a_page_without_the_place_is_refused():
    with pytest.raises(InvalidArgument, match="retrieval"):
        fill("nothing", "text")


def test_ratings_that_are_not_there_are_named(tmp_path, capsys):
    assert main(["vectors", "--data", str(tmp_path), "--cache", str(tmp_path)]) == 1
    assert "ml1m-five-star" in capsys.readouterr().err
