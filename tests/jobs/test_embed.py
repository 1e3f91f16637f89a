"""Embedding in batches, telling changed inputs from unchanged ones, and the fingerprint of a catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import graphs, warehouse

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.runtime import load_graph
from feast_recsys.bundle.signature import Graph, Role
from feast_recsys.features.catalogue import Catalogue
from feast_recsys.features.settings import Settings
from feast_recsys.jobs.embed import embed, same_inputs, with_key
from feast_recsys.jobs.fingerprint import fingerprint

INPUTS = warehouse.inputs(True)[Role.ITEM_ENCODER]
TYPES = {"year": (DType.INT64, False), "price": (DType.FLOAT32, False), "tags": (DType.STRING, True)}


def columns_of(items):
    return {
        f"catalogue:{name}": Column.of(dtype, [item[name] for item in items], is_list=is_list)
        for name, (dtype, is_list) in TYPES.items()
    }


ITEM = st.fixed_dictionaries(
    {
        "year": st.none() | st.integers(-3, 9),
        "price": st.none() | st.sampled_from([0.0, -1.0, 0.5, 3.0]),
        "tags": st.none() | st.lists(st.sampled_from(["red", "warm", "", "?"]), max_size=5),
    }
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    model = graphs.graph(INPUTS, warehouse.vocabularies(True), warehouse.DIMENSION)
    return load_graph(folder, graphs.save_graph(folder, Graph(Role.ITEM_ENCODER, INPUTS, "output"), model))


@settings(deadline=None, max_examples=40)
@given(st.lists(ITEM, max_size=9), st.integers(1, 4), st.data())
def test_any_rows_in_any_batches_have_the_vectors_of_their_items(encoder, items, batch, data):
    ids = np.array([f"item-{n}" for n in range(len(items))], object)
    columns = with_key(columns_of(items), warehouse.ITEM_KEY, ids)
    rows = np.array(data.draw(st.lists(st.integers(0, len(items) - 1), unique=True)) if items else [], np.int64)
    told = []
    vectors = embed(
        encoder, columns, ids, rows, warehouse.DIMENSION, batch=batch, progress=lambda done, n: told.append((done, n))
    )
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(rows), warehouse.DIMENSION)
    for vector, row in zip(vectors, rows, strict=True):
        raw = {f"catalogue:{name}": value for name, value in items[row].items()} | {"entity:sku": ids[row]}
        oracle = graphs.expected(INPUTS, warehouse.vocabularies(True), raw, warehouse.DIMENSION)
        np.testing.assert_array_equal(vector, oracle)
    assert told == [(min(at + batch, len(rows)), len(rows)) for at in range(0, len(rows), batch)]


def seen_by_the_encoder(item):
    """What is left of an item once defaults, the longest list and padding have had their way."""
    year = 9 if item["year"] is None else item["year"]
    price = -1.0 if item["price"] is None else item["price"]
    tags = [*(item["tags"] or [])[:3], "", "", ""][:3]
    return year, price, tags


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(ITEM, ITEM), min_size=1, max_size=6), st.integers(1, 4))
def test_inputs_are_the_same_exactly_where_the_encoder_can_not_tell_them_apart(pairs, batch):
    inputs = [spec for spec in INPUTS if spec.from_store]
    same = same_inputs(inputs, columns_of([a for a, _ in pairs]), columns_of([b for _, b in pairs]), batch=batch)
    assert same.tolist() == [seen_by_the_encoder(a) == seen_by_the_encoder(b) for a, b in pairs]


def test_the_key_is_a_column_of_its_type():
    assert with_key({}, "sku", np.array([5, 6]))["entity:sku"].to_list() == [5, 6]
    column = with_key({}, "sku", np.array(["a", "b"], object))["entity:sku"]
    assert (column.dtype, column.to_list()) == (DType.STRING, ["a", "b"])


def test_an_encoder_that_fails_is_a_failed_job(encoder):
    items = [{"year": 1, "price": 1.0, "tags": []}]
    ids = np.array(["a"], object)
    broken = replace(encoder, graph=replace(encoder.graph, output="nothing"))
    columns = with_key(columns_of(items), warehouse.ITEM_KEY, ids)
    with pytest.raises(JobFailed, match="the item encoder failed on items a to a"):
        embed(broken, columns, ids, np.array([0]), warehouse.DIMENSION)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return warehouse.build(tmp_path_factory.mktemp("repo"), models=False)


BASE = {
    "a:x": Column.of(DType.INT64, [1, None]),
    "a:y": Column.of(DType.STRING, ["ab", "c"]),
    "a:z": Column.of(DType.STRING, [["a", "b"], []], is_list=True),
}
IDS = np.array(["i", "j"], object)
CHANGES = {
    "a value": {"a:x": Column.of(DType.INT64, [2, None])},
    "a null": {"a:x": Column.of(DType.INT64, [1, 0])},
    "a type": {"a:x": Column.of(DType.FLOAT32, [1, None])},
    "where a text ends": {"a:y": Column.of(DType.STRING, ["a", "bc"])},
    "where a list ends": {"a:z": Column.of(DType.STRING, [["a"], ["b"]], is_list=True)},
    "empty to null": {"a:z": Column.of(DType.STRING, [["a", "b"], None], is_list=True)},
    "another feature": {"a:w": Column.of(DType.INT64, [1, 1])},
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_content_changes_the_fingerprint(repo, change):
    before = fingerprint(repo, [], Catalogue(IDS, BASE))
    assert fingerprint(repo, [], Catalogue(IDS, BASE | CHANGES[change])) != before


def test_other_ids_change_the_fingerprint(repo):
    prints = {
        fingerprint(repo, [], Catalogue(ids, BASE))
        for ids in (IDS, np.array(["i", "k"], object), np.array(["1", "2"], object), np.array([1, 2]))
    }
    assert len(prints) == 4


def test_event_times_and_reasons_for_nothing_do_not_change_it(repo):
    x = BASE["a:x"]
    status = np.array([FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND], np.uint8)
    later = replace(x, timestamps=x.timestamps + 5, status=status)
    before = fingerprint(repo, [], Catalogue(IDS, BASE))
    assert fingerprint(repo, [], Catalogue(IDS, BASE | {"a:x": later})) == before


def with_index(repo, **index):
    """The repository with other settings of every index."""
    document = repo.settings.model_dump(mode="json", exclude_defaults=True)
    for recommender in document["recommenders"].values():
        recommender["retrieval"]["index"] = index
    return replace(repo, settings=Settings.model_validate(document))


@pytest.mark.parametrize(
    "index", [{"sample": 500}, {"compaction": 0.2}, {"budget_seconds": 60}, {"recall": 0.99, "sample": 200}]
)
def test_how_an_index_is_measured_and_kept_up_does_not_change_it(repo, index):
    before = fingerprint(repo, [], Catalogue(IDS, BASE))
    assert fingerprint(with_index(repo, **index), [], Catalogue(IDS, BASE)) == before


@pytest.mark.parametrize(
    "index",
    [{"recall": 0.95}, {"k": 10}, {"kinds": ["hnsw"]}, {"exact_microseconds": 50}, {"kind": "exact"},
     {"kind": "ivf_flat", "probes": 9}],
)  # fmt: skip
def test_which_index_is_wanted_changes_it(repo, index):
    before = fingerprint(repo, [], Catalogue(IDS, BASE))
    assert fingerprint(with_index(repo, **index), [], Catalogue(IDS, BASE)) != before
