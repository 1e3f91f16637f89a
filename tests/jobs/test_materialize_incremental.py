"""After any changes an incremental run publishes what a full one would, and reads no more than what changed."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast import PushSource
from feast.data_source import PushMode
from support import warehouse
from support.feast_repo import TIMESTAMP
from support.materialized import add_rows, bundle_of, counts, feast_vectors, vectors_of

from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.segments import Segments
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF
HOUR = timedelta(hours=1)


def settings(compaction=1.0):
    index = {"kind": "ivf_flat", "lists": 2, "probes": 2, "compaction": compaction}
    retrieval = {"index": index, "vectors": warehouse.VECTORS}
    return {"recommenders": {"things": {"retrieval": retrieval, "seen": ["history:item_ids"]}}}


def random_changes(folder, rng, moment):
    """New items, other values, items that are gone."""
    path = folder / "catalogue.parquet"
    table = pq.read_table(path)
    there = sorted(set(table[warehouse.ITEM_KEY].to_pylist()))
    new = [f"item-{rng.integers(10**6)}" for _ in range(rng.integers(0, 4))]
    touched = [i for i in there if rng.random() < 0.3] + new
    gone = [i for i in there if rng.random() < 0.15]
    rows = warehouse.catalogue_rows(
        touched,
        moment,
        title=[rng.choice(["Hat", "", "Höse"]) for _ in touched],
        price=[None if rng.random() < 0.2 else float(rng.integers(1, 9)) for _ in touched],
        year=[int(rng.integers(1, 9)) for _ in touched],
        new=[bool(rng.random() < 0.5) for _ in touched],
        tags=[list(rng.choice(["red", "small", "?"], rng.integers(0, 3))) for _ in touched],
        sizes=[None if rng.random() < 0.2 else [0.5] * int(rng.integers(0, 3)) for _ in touched],
    )
    table = pa.concat_tables([table, rows])
    pq.write_table(table.filter(pc.invert(pc.is_in(table[warehouse.ITEM_KEY], pa.array(gone, pa.string())))), path)
    path = folder / "popularity.parquet"
    sold = pq.read_table(path)
    some = sold.slice(0, int(rng.integers(0, 3)))
    moments = pa.array([moment] * len(some), sold.schema.field(TIMESTAMP).type)
    some = some.set_column(some.schema.names.index(TIMESTAMP), sold.schema.field(TIMESTAMP), moments)
    at = some.schema.names.index("sold")
    some = some.set_column(at, sold.schema.field("sold"), pa.array(rng.integers(0, 9, len(some)), pa.int64()))
    pq.write_table(pa.concat_tables([sold, some]), path)


def content(repo):
    """What a bundle holds, but for event times of what is missing."""
    bundle = bundle_of(repo)
    snapshot = bundle.snapshot
    ids = snapshot.ids_of(np.arange(len(snapshot)))
    columns = {name: snapshot.column(name) for name in snapshot.references}
    values = {name: (c.to_list(), c.status.tolist(), c.timestamps.tolist()) for name, c in columns.items()}
    return bundle, ids, values, vectors_of(bundle, repo)


@pytest.mark.parametrize("seed", range(2))
def test_an_incremental_bundle_is_that_of_a_full_run(tmp_path, seed):
    rng = np.random.default_rng(seed)
    repo = warehouse.build(tmp_path, settings=settings())
    now = AS_OF
    materialize(repo, as_of=now)
    for steps in (2, 1):
        for _ in range(steps):
            now += HOUR
            random_changes(tmp_path, rng, now - HOUR / 2)
            materialize(open_repo(tmp_path), as_of=now)
        bundle, ids, values, vectors = content(repo)
        full = materialize(open_repo(tmp_path), mode="full", as_of=now)
        reference, full_ids, full_values, full_vectors = content(repo)
        assert full.published and reference.id != bundle.id
        assert ids == full_ids
        assert values == full_values
        np.testing.assert_array_equal(vectors, full_vectors)
        assert bundle.manifest.fingerprint == reference.manifest.fingerprint
        index, queries = bundle.recommenders["things"].index, rng.normal(size=(9, warehouse.DIMENSION))
        for k in (1, 3, len(ids)):
            found, scores = index.search(queries.astype(np.float32), k)
            _, best = ExactIndex(vectors).search(queries.astype(np.float32), k)
            np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-4)
            assert [len(set(row)) for row in found.tolist()] == [min(k, len(ids))] * 9
        for stored, row in zip(feast_vectors(repo, ids), vectors, strict=True):
            np.testing.assert_array_equal(stored, row)


def test_no_more_is_read_embedded_and_written_than_what_changed(tmp_path, redis_or_none):
    repo = warehouse.build(tmp_path, redis=redis_or_none, settings=settings())
    assert counts(materialize(repo, as_of=AS_OF), "read catalogue")["read"] == warehouse.N
    new = warehouse.catalogue_rows(["item-a", "item-aa"], AS_OF + HOUR, year=[7, 8])
    add_rows(tmp_path, new)
    summary = materialize(open_repo(tmp_path), as_of=AS_OF + 2 * HOUR)
    assert counts(summary, "read catalogue")["read"] == 2
    assert counts(summary, "embed")["embedded"] == 2
    assert counts(summary, "write vectors") == {"written": 2, "read_back": 2}
    assert counts(summary, "carry indexes") == {"carried": 1}
    bundle = bundle_of(repo)
    index, entry = bundle.recommenders["things"].index, bundle.manifest.recommenders["things"].index
    assert isinstance(index, Segments)
    assert (index.delta.tolist(), len(index.tombstones)) == ([0, 1], 1)
    assert (entry.folder, entry.segments) == ("index/things", "segments/things")
    parts = pq.read_table(sorted((tmp_path / "item_vectors").glob("*-changes.parquet"))[0])
    assert sorted(parts[warehouse.ITEM_KEY].to_pylist()) == ["item-a", "item-aa"]


def test_an_index_with_too_many_changes_is_built_anew(tmp_path):
    repo = warehouse.build(tmp_path, settings=settings(compaction=0.4))
    materialize(repo, as_of=AS_OF)
    kinds = []
    for n in range(3):
        add_rows(tmp_path, warehouse.catalogue_rows([f"item-n{n}"], AS_OF + (n + 1) * HOUR, year=[n]))
        materialize(open_repo(tmp_path), as_of=AS_OF + (n + 1) * HOUR)
        kinds.append(isinstance(bundle_of(repo).recommenders["things"].index, Segments))
        assert len(bundle_of(repo).recommenders["things"].index) == warehouse.N + n + 1
    assert kinds == [True, True, False]


def test_a_pushed_item_is_there_after_one_incremental_run(tmp_path):
    repo = warehouse.build(tmp_path, settings=settings())
    view = repo.store.get_feature_view("catalogue")
    push = PushSource(name="news", batch_source=view.batch_source)
    view.stream_source = push
    repo.store.apply([push, view])
    repo = open_repo(tmp_path)
    materialize(repo, as_of=AS_OF)
    values = {name: [values[1]] for name, values in warehouse.ITEMS.items()}
    pushed = pd.DataFrame({warehouse.ITEM_KEY: ["item-pushed"], **values, TIMESTAMP: [pd.Timestamp(AS_OF + HOUR)]})
    repo.store.push("news", pushed, to=PushMode.ONLINE)
    assert not materialize(repo, as_of=AS_OF + 2 * HOUR).published  # which items there are the offline store says
    # Feast's own append to a Parquet file knows no lists of text as Arrow names them now.
    add_rows(tmp_path, warehouse.catalogue_rows(["item-pushed"], AS_OF + HOUR, **values))
    summary = materialize(repo, as_of=AS_OF + 3 * HOUR)
    assert counts(summary, "read catalogue")["read"] == 1
    bundle = bundle_of(repo)
    [at] = bundle.snapshot.rows(["item-pushed"])
    assert bundle.snapshot.column("catalogue:title").to_list()[at] == "Coat"
    found, _ = bundle.recommenders["things"].index.search(vectors_of(bundle, repo)[[at]], warehouse.N + 1)
    assert at in found[0]


@pytest.mark.parametrize("change", ["declaration", "policy", "earlier moment"])
def test_whatever_else_changes_all_is_read_again(tmp_path, change):
    repo = warehouse.build(tmp_path, settings=settings())
    materialize(repo, as_of=AS_OF)
    as_of = AS_OF + HOUR
    if change == "declaration":
        view = repo.store.get_feature_view("popularity")
        view.description = "what people buy"
        repo.store.apply([view])
    elif change == "policy":
        warehouse.change_settings(tmp_path, {"serving": {"stale": {"catalogue": "default"}}})
    else:
        as_of = AS_OF - HOUR
    summary = materialize(open_repo(tmp_path), as_of=as_of)
    assert counts(summary, "read catalogue")["read"] == warehouse.N
