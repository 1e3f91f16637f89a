"""Queries to measure with: real users, read as the server reads them, the same ones from run to run."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import graphs, warehouse
from support.feast_repo import TIMESTAMP, at, materialize

from feast_recsys.bundle.signature import Role, Stage
from feast_recsys.features.entity_ids import user_ids
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.encode_users import encode_users
from feast_recsys.jobs.exported import open_model
from feast_recsys.jobs.queries import FEWEST, sample_queries, stable_sample

USERS = [f"u{n}" for n in range(300)]
AGES = [None if n % 7 == 0 else 20 + n for n in range(300)]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """The warehouse with 300 members in the offline store, all but the last ten of them online."""
    folder = tmp_path_factory.mktemp("crowd")
    repo = warehouse.build(folder)
    profile = pd.DataFrame({"member": USERS, "age": pd.array(AGES, "Int64"), TIMESTAMP: [at(0)] * 290 + [at(900)] * 10})
    pq.write_table(pa.Table.from_pandas(profile, preserve_index=False), folder / "profile.parquet")
    materialize(repo, (at(600)).to_pydatetime())
    return repo, open_model(repo, "things", Stage.RETRIEVAL, "things_retrieval")


def expected(user: int) -> np.ndarray:
    row = {"profile:age": AGES[user], "history:item_ids": warehouse.item_ids(True)[:2] if user == 1 else None}
    inputs = warehouse.inputs(True)[Role.QUERY_ENCODER]
    return graphs.expected(inputs, warehouse.vocabularies(True), row, warehouse.DIMENSION)


def test_the_users_of_the_offline_store_up_to_a_moment(crowd):
    repo, _ = crowd
    references = ("profile:age", "history:item_ids")
    assert user_ids(repo, references, warehouse.AS_OF).tolist() == sorted(USERS)
    assert user_ids(repo, references, at(600).to_pydatetime()).tolist() == sorted(USERS[:290])
    assert user_ids(repo, ("history:item_ids",), warehouse.AS_OF).tolist() == ["u1"]
    assert user_ids(repo, ("catalogue:year",), warehouse.AS_OF).tolist() == []


def test_vectors_are_those_of_the_query_encoder(crowd):
    repo, model = crowd
    ids = np.array(["nobody", "u1", "u0", "u295", "u8"], object)
    for batch in (2, 1024):
        vectors, known = encode_users(repo, model, ids, batch=batch)
        assert known.tolist() == [False, True, True, False, True]
        np.testing.assert_array_equal(vectors[[1, 2, 4]], [expected(1), expected(0), expected(8)])
        assert not vectors[~known].any()


def test_a_sample_has_different_queries_of_known_users(crowd):
    repo, model = crowd
    queries = sample_queries(repo, model, 1000, warehouse.AS_OF)
    known = {tuple(expected(user)) for user in range(290)}
    assert {tuple(row) for row in queries.vectors} == known
    assert len(queries.vectors) == len(known)
    assert queries.enough
    assert queries.asked == f"{len(known)} of 300 users in the offline store"
    assert len(sample_queries(repo, model, 120, warehouse.AS_OF).vectors) == 120


def test_users_come_from_the_interactions_where_there_are_any(crowd):
    repo, model = crowd
    warehouse.change_settings(repo.path, {"interactions": {"path": "interactions.parquet"}})
    pq.write_table(pa.table({"member": USERS[:200] * 2}), repo.path / "interactions.parquet")
    again = open_repo(repo.path)
    queries = sample_queries(again, model, 1000, warehouse.AS_OF)
    assert queries.asked.endswith("of 200 users in recsys.interactions")
    assert {tuple(row) for row in queries.vectors} == {tuple(expected(user)) for user in range(200)}


def test_too_few_users_say_so(crowd):
    repo, model = crowd
    few = sample_queries(repo, model, 1000, at(-900).to_pydatetime())
    assert not few.enough
    assert few.asked.startswith("0 users in the offline store")
    assert f"{FEWEST} are needed" in few.asked


def test_a_store_that_can_not_be_read_is_named(crowd):
    repo, model = crowd
    later = repo.path / "profile.parquet"
    later.rename(later.with_suffix(".gone"))
    try:
        queries = sample_queries(repo, model, 1000, warehouse.AS_OF + timedelta(days=1))
    finally:
        later.with_suffix(".gone").rename(later)
    assert not queries.enough
    assert "profile" in queries.asked


def test_a_sample_stays_the_same_as_users_come_and_go():
    ids = np.arange(10_000)
    sample = stable_sample(ids, 500)
    assert len(np.unique(sample)) == 500
    more = stable_sample(np.arange(11_000), 500)
    assert len(np.intersect1d(sample, more)) > 430
    fewer = stable_sample(ids[ids % 10 > 0], 500)
    assert len(np.intersect1d(sample, fewer)) == (sample % 10 > 0).sum()
