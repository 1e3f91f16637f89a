"""Users' query vectors as a feature: what the query encoder gives for what Feast knows of a user, written to Feast."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureView, Field, FileSource
from feast.types import Array, Float32
from support import graphs, warehouse
from support.feast_repo import TIMESTAMP
from support.materialized import counts

from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Role
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF
REFERENCE = "user_vectors:taste"
# What Feast knows of each: age and history; u2 has no history.
KNOWN = {"u1": (30, warehouse.item_ids(True)[:2]), "u2": (40, None)}


def build(folder: Path, redis: str | None = None, features: tuple[str, ...] = ("taste",)) -> Repo:
    """The warehouse with a view for users' vectors, whose source has no rows yet."""
    retrieval = {"vectors": warehouse.VECTORS, "user_vectors": REFERENCE}
    recommenders = {"things": {"retrieval": retrieval, "seen": ["history:item_ids"]}}
    repo = warehouse.build(folder, redis=redis, settings={"recommenders": recommenders})
    (folder / "user_vectors").mkdir()
    types = {"member": pa.string(), **{name: pa.list_(pa.float32()) for name in features}}
    schema = pa.schema({**types, TIMESTAMP: pa.timestamp("us", "UTC")})
    pq.write_table(schema.empty_table(), folder / "user_vectors" / "schema.parquet")
    view = FeatureView(
        name="user_vectors",
        entities=[repo.store.get_entity("customer")],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=Array(Float32)) for name in features],
        source=FileSource(name="user_vectors", path=str(folder / "user_vectors"), timestamp_field=TIMESTAMP),
    )
    repo.store.apply([view])
    return open_repo(folder)


def stored(repo: Repo, *users: str) -> list[list[float] | None]:
    """What any client of Feast is told."""
    answer = repo.store.get_online_features([REFERENCE], [{"member": user} for user in users]).to_dict()
    found: list[list[float] | None] = answer["taste"]
    return found


def expected(*users: str) -> list[list[float]]:
    """Computed in plain Python."""
    encoder = warehouse.inputs(True)[Role.QUERY_ENCODER]
    rows = [{"profile:age": KNOWN[user][0], "history:item_ids": KNOWN[user][1]} for user in users]
    known = warehouse.vocabularies(True)
    return [graphs.expected(encoder, known, row, warehouse.DIMENSION).tolist() for row in rows]


def test_every_user_whom_feast_knows_gets_the_vector_of_their_query(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = build(tmp_path, redis_or_none)
    summary = materialize(repo, as_of=AS_OF)
    assert stored(repo, "u1", "u2", "stranger") == [*expected("u1", "u2"), None]
    assert counts(summary, "encode users") == {"users": 2}
    assert counts(summary, "write vectors to user_vectors") == {"written": 2, "read_back": 2}


def test_they_follow_the_users_though_no_item_changed(tmp_path: Path) -> None:
    repo = build(tmp_path)
    materialize(repo, as_of=AS_OF)
    path = tmp_path / "profile.parquet"
    changed = pd.DataFrame({"member": ["u2"], "age": [41], TIMESTAMP: [pd.Timestamp(AS_OF + timedelta(hours=12))]})
    pd.concat([pd.read_parquet(path), changed]).to_parquet(path)
    before = stored(repo, "u1", "u2")
    summary = materialize(repo, as_of=AS_OF + timedelta(days=1))
    assert not summary.published
    after = stored(repo, "u1", "u2")
    assert after[0] == before[0]
    encoder, row = warehouse.inputs(True)[Role.QUERY_ENCODER], {"profile:age": 41, "history:item_ids": None}
    wanted = graphs.expected(encoder, warehouse.vocabularies(True), row, warehouse.DIMENSION)
    np.testing.assert_array_equal(np.array(after[1], np.float32), wanted)


def test_the_offline_store_has_them_for_training(tmp_path: Path) -> None:
    repo = build(tmp_path)
    materialize(repo, as_of=AS_OF)
    [file] = (tmp_path / "user_vectors").glob("recsys-*.parquet")
    rows = pq.read_table(file).to_pydict()
    assert dict(zip(rows["member"], rows["taste"], strict=True)) == dict(zip(KNOWN, expected(*KNOWN), strict=True))


def test_a_view_with_other_features_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    repo = build(tmp_path, features=("taste", "mood"))
    with pytest.raises(InvalidRepository, match="to take user vectors, but also has mood"):
        materialize(repo, as_of=AS_OF)
    assert not (tmp_path / "bundles" / "CURRENT").exists()
