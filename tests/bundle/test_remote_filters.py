"""Filters of ours in the words of Milvus and Qdrant; None where they have none that mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.filter_plan import plan_of
from feast_recsys.bundle.filters import parse_filter
from feast_recsys.bundle.index.engine import LONGEST_LIST, LONGEST_TEXT, MOST_FIELDS, fields_of, values_of
from feast_recsys.bundle.index.remote_filters import folded, milvus_expression, qdrant_filter
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot


def snapshot_of(folder, **columns):
    """Columns by the names of features of a view; of two items."""
    write_snapshot(folder, np.arange(2), {f"movie:{name}": column for name, column in columns.items()})
    return open_snapshot(folder)


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    return snapshot_of(
        tmp_path_factory.mktemp("movies"),
        year=Column.of(DType.INT64, [1990, 2000]),
        seen=Column.of(DType.INT64, [3, None]),
        score=Column.of(DType.FLOAT32, [0.5, None]),
        new=Column.of(DType.BOOL, [True, False]),
        title=Column.of(DType.STRING, ["Alien", "Brazil"]),
        genres=Column.of(DType.STRING, [["Horror"], None], is_list=True),
    )


def said(document, snapshot):
    """By Milvus, and by Qdrant."""
    plan, fields = folded(plan_of(parse_filter(document), snapshot)), fields_of(snapshot)
    assert not isinstance(plan, bool)
    found = qdrant_filter(plan, fields)
    return milvus_expression(plan, fields), None if found is None else found["must"][0]


def leaf(kind, name, value):
    return {"type": kind, "key": f"movie:{name}", "value": value}


@pytest.mark.parametrize(
    ("document", "milvus", "qdrant"),
    [
        (leaf("gte", "year", 1990), "f_movie_year >= 1990", {"key": "f_movie_year", "range": {"gte": 1990.0}}),
        (
            leaf("eq", "new", True),
            "f_movie_new == true",
            {"should": [{"key": "f_movie_new", "match": {"value": True}}]},
        ),
        (
            leaf("ne", "title", 'The "Alien"'),
            'not (f_movie_title in ["The \\"Alien\\""])',
            {"must_not": [{"key": "f_movie_title", "match": {"value": 'The "Alien"'}}]},
        ),
        (
            leaf("in", "genres", ["Horror", "Drama"]),
            'array_contains_any(f_movie_genres, ["Drama", "Horror"])',
            {"key": "f_movie_genres", "match": {"any": ["Drama", "Horror"]}},
        ),
        # No fraction equals another in Qdrant, but it may lie between the two.
        (
            leaf("eq", "score", 0.5),
            "f_movie_score in [0.5]",
            {"should": [{"key": "f_movie_score", "range": {"gte": 0.5, "lte": 0.5}}]},
        ),
    ],
)
def test_a_comparison_is_said(movies, document, milvus, qdrant):
    assert said(document, movies) == (milvus, qdrant)


@pytest.mark.parametrize(("value", "asked"), [(0, True), (5, True), (-1, False)])
def test_milvus_is_asked_for_the_presence_of_values_only_where_the_zero_in_its_place_would_pass(movies, value, asked):
    expression, _ = said(leaf("lte", "seen", value), movies)
    assert ("f_movie_seen__present == true" in expression) is asked
    assert "__present" not in said(leaf("lte", "year", 5), movies)[0]


@pytest.mark.parametrize(
    ("document", "milvus", "qdrant"),
    [
        (leaf("lt", "title", "B"), True, False),
        (leaf("gte", "year", 2**53), True, False),
        (leaf("gte", "year", -(2**63)), False, False),
        (leaf("eq", "title", "two\nlines"), False, True),
        (leaf("in", "year", list(range(1001))), False, False),
        (leaf("in", "score", [n / 8 for n in range(101)]), True, False),
    ],
)
def test_what_does_not_mean_the_same_is_not_said(movies, document, milvus, qdrant):
    """Neither alone nor as a part of something."""
    for whole in (document, {"type": "not", "filters": [document]}):
        answers = said({"type": "or", "filters": [whole, leaf("eq", "year", 1990)]}, movies)
        assert tuple(answer is not None for answer in answers) == (milvus, qdrant)


def test_comparisons_that_nothing_passes_are_folded(movies):
    nothing, something = leaf("in", "year", []), leaf("eq", "year", 1990)
    for document, expected in [
        (nothing, False),
        ({"type": "not", "filters": [nothing]}, True),
        ({"type": "and", "filters": [nothing, something]}, False),
        ({"type": "or", "filters": [leaf("nin", "year", []), something]}, True),
        ({"type": "or", "filters": [nothing, something]}, plan_of(parse_filter(something), movies)),
    ]:
        assert folded(plan_of(parse_filter(document), movies)) == expected


def test_fields_have_names_that_every_engine_takes(tmp_path):
    column = Column.of(DType.INT64, [1, 2])
    snapshot = snapshot_of(tmp_path, **{"a b": column, "a.b": column, "größe": column})
    assert [field.name for field in fields_of(snapshot).values()] == ["f_movie_a_b", "f_movie_a_b_2", "f_movie_gr__e"]


def test_a_column_that_no_engine_can_hold_is_left_out(tmp_path):
    """Filters on it are evaluated here."""
    columns = {
        "texts": Column.of(DType.STRING, ["é" * (LONGEST_TEXT // 2 + 1), ""]),
        "lists": Column.of(DType.INT64, [[1] * (LONGEST_LIST + 1), []], is_list=True),
        "fine": Column.of(DType.STRING, [["x" * LONGEST_TEXT] * 2, None], is_list=True),
    }
    snapshot = snapshot_of(tmp_path, **columns)
    assert list(fields_of(snapshot)) == ["movie:fine"]
    assert said(leaf("eq", "texts", "x"), snapshot) == (None, None)


def test_no_more_columns_are_held_than_milvus_has_fields_for(tmp_path):
    snapshot = snapshot_of(tmp_path, **{f"c{n}": Column.of(DType.INT64, [1, None]) for n in range(40)})
    assert len(fields_of(snapshot)) == MOST_FIELDS


def test_numbers_that_json_has_no_word_for(tmp_path):
    column = Column.of(DType.FLOAT32, [[float("nan"), float("inf"), -0.0], None], is_list=True)
    [field] = fields_of(snapshot_of(tmp_path, numbers=column)).values()
    assert repr(values_of(column, field)) == "[[1e+300, 0.0], None]"
