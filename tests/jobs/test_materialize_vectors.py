"""Item vectors on their way back to Feast: both stores get them, and anybody's materialization brings them back."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import warehouse
from support.feast_repo import TIMESTAMP
from support.materialized import add_rows, counts, feast_vectors

from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF


def lose_vectors(repo, folder, redis):
    """Empties the online store behind Feast's back; on Redis, where items are one hash each, of all item features."""
    if redis is not None:
        repo.store.provider.online_store.delete_entity_values(repo.store.config, [warehouse.ITEM_KEY])
        return
    with contextlib.closing(sqlite3.connect(folder / "online.db")) as connection:
        connection.execute(f"DELETE FROM {repo.store.project}_item_vectors")
        connection.commit()


@pytest.mark.filterwarnings("ignore:Downcasting object dtype arrays:FutureWarning")  # dask, sorting several files
def test_feasts_own_materialization_restores_the_newest_vectors(tmp_path, redis_or_none):
    repo = warehouse.build(tmp_path, redis=redis_or_none)
    for seed in (2, 1, 0):
        warehouse.export_models(tmp_path / "models", True, seed=seed)
        materialize(repo, as_of=AS_OF)
    ids = warehouse.item_ids(True)
    lose_vectors(repo, tmp_path, redis_or_none)
    assert feast_vectors(repo, ids) == [None] * warehouse.N
    repo.store.materialize(datetime(1970, 1, 1, tzinfo=timezone.utc), datetime.now(timezone.utc), ["item_vectors"])
    np.testing.assert_array_equal(np.stack(feast_vectors(repo, ids)), warehouse.expected_vectors(True))


def test_vectors_that_the_online_store_lost_are_written_again(tmp_path):
    repo = warehouse.build(tmp_path)
    materialize(repo, as_of=AS_OF)
    lose_vectors(repo, tmp_path, None)
    add_rows(tmp_path, warehouse.catalogue_rows(warehouse.item_ids(True)[:1], moment=AS_OF, title=["Cap"]))
    summary = materialize(repo, as_of=AS_OF + timedelta(days=1))
    assert counts(summary, "embed") == {"embedded": 0, "reused": warehouse.N}
    np.testing.assert_array_equal(
        np.stack(feast_vectors(repo, warehouse.item_ids(True))), warehouse.expected_vectors(True)
    )


def test_a_folder_of_vectors_keeps_a_few_files_each_with_all_items(tmp_path):
    repo = warehouse.build(tmp_path)
    for _ in range(4):
        materialize(repo, mode="full", as_of=AS_OF)
    names = sorted(p.name for p in (tmp_path / "item_vectors").iterdir())
    assert len(names) == 3  # keep_bundles is 2, and the file that was there before stays
    assert names[-1] == "schema.parquet"
    tables = [pq.read_table(tmp_path / "item_vectors" / name) for name in names[:-1]]
    assert [table.num_rows for table in tables] == [warehouse.N, warehouse.N]
    stamps = [set(table[TIMESTAMP].to_pylist()) for table in tables]
    assert [len(s) for s in stamps] == [1, 1]
    assert max(stamps[0]) < min(stamps[1])


def test_a_single_file_of_vectors_gets_rows_appended(tmp_path):
    repo = warehouse.build(tmp_path, vectors="file")
    materialize(repo, as_of=AS_OF)
    warehouse.export_models(tmp_path / "models", True, seed=1)
    materialize(repo, as_of=AS_OF)
    table = pq.read_table(tmp_path / "item_vectors.parquet").to_pandas().sort_values([TIMESTAMP, warehouse.ITEM_KEY])
    assert len(table) == 2 * warehouse.N
    np.testing.assert_array_equal(np.stack(table["vector"][: warehouse.N]), warehouse.expected_vectors(True))
    np.testing.assert_array_equal(np.stack(table["vector"][warehouse.N :]), warehouse.expected_vectors(True, seed=1))
    np.testing.assert_array_equal(np.stack(feast_vectors(repo, warehouse.item_ids(True))),
                                  warehouse.expected_vectors(True, seed=1))  # fmt: skip
