"""The ledger of collections: written before, struck out after, and named so that every engine takes it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.store import history, stage
from feast_recsys.jobs.ledger import LEDGER_FILE, Held, Ledger, alias_of, collection_of

BUNDLE = "20260101T120000Z-1a2b3c4d"
LINES = [Held("milvus", "http://milvus:19530", f"shop_things_{n}", "shop_things", f"bundle-{n}") for n in range(3)]

texts = st.text(min_size=1, max_size=300)


def test_lines_are_added_and_struck_out(tmp_path):
    ledger = Ledger(tmp_path)
    assert ledger.read() == []
    ledger.add(LINES[:2])
    ledger.add(LINES[2:])
    assert Ledger(tmp_path).read() == LINES
    ledger.strike(LINES[1])
    ledger.strike(LINES[1])
    assert ledger.read() == [LINES[0], LINES[2]]


def test_it_is_no_bundle_and_outlives_a_new_one(tmp_path):
    Ledger(tmp_path).add(LINES)
    stage(tmp_path)
    assert history(tmp_path) == []
    assert Ledger(tmp_path).read() == LINES


@pytest.mark.parametrize("content", ["", "[{", '[{"kind": "milvus"}]', "[1]", "\x00"])
def test_a_broken_one_is_named_with_a_remedy(tmp_path, content):
    (tmp_path / LEDGER_FILE).write_text(content)
    with pytest.raises(CorruptArtifact, match=rf"{LEDGER_FILE} can't be read.*docs/milvus-qdrant.md"):
        Ledger(tmp_path).read()


def test_a_collection_is_named_after_project_recommender_and_bundle():
    assert collection_of("shop", "things", BUNDLE) == "shop_things_20260101T120000Z_1a2b3c4d"
    assert alias_of("shop", "things") == "shop_things"


@given(texts, texts)
def test_every_engine_takes_the_names(project, recommender):
    for name in (alias_of(project, recommender), collection_of(project, recommender, BUNDLE)):
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name)


def test_names_that_only_differ_in_what_is_not_taken_stay_different():
    names = ["a-b", "a_b", "a.b", "a+b", "x" * 200, "x" * 201, "é", "è"]
    assert len({alias_of("shop", name) for name in names}) == len(names)
