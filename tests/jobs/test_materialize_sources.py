"""What a materialization puts into a bundle for sources of candidates, and when that is something new."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from support import graphs, warehouse
from support.feast_repo import TIMESTAMP
from support.materialized import bundle_of, counts

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Role, Stage
from feast_recsys.features.interactions import Interactions
from feast_recsys.features.listings import cold, largest, likes, most_liked
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.doctor import examine
from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF
IDS = warehouse.item_ids(True)

# By item: how many days before the bundle it was liked.
LIKES = {IDS[0]: [0.5, 0.25], IDS[2]: [8, 7, 1.5, 1.25], IDS[3]: [1.25], IDS[4]: [6], "gone": [1, 1, 1]}
SOURCES = [
    {"name": "own", "quota": 5},
    {"name": "trending", "kind": "popular", "days": 2, "quota": 2},
    {"name": "ever", "kind": "popular"},
    {"name": "priciest", "kind": "recent", "by": "catalogue:price"},
    {"name": "lately", "kind": "recent", "by": "popularity:last_sold"},
    {"name": "new", "model": "content", "only": "cold", "cold_below": 2, "quota": 1},
    {"name": "alike", "kind": "similar", "model": "content", "history": "history:item_ids",
     "filter": {"type": "eq", "key": "catalogue:new", "value": True}},
]  # fmt: skip


def things(sources) -> dict:
    return {"things": {"retrieval": {"vectors": warehouse.VECTORS}, "sources": sources}}


@pytest.fixture
def repo(tmp_path):
    settings = {"recommenders": things(SOURCES), "interactions": {"path": "likes.parquet", "timestamp": TIMESTAMP}}
    made = warehouse.build(tmp_path, settings=settings)
    likes_of = [(item, AS_OF - timedelta(days=ago)) for item, moments in LIKES.items() for ago in moments]
    write_likes(tmp_path, likes_of)
    export_content(tmp_path)
    return made


def write_likes(folder, rows) -> None:
    items, moments = zip(*rows, strict=True)
    pd.DataFrame({"member": "u1", warehouse.ITEM_KEY: items, TIMESTAMP: moments}).to_parquet(folder / "likes.parquet")


def export_content(folder, seed=7) -> None:
    takes = warehouse.inputs(True)
    graphs.export(
        folder / "models/content", "content", Stage.RETRIEVAL,
        {role: takes[role] for role in (Role.QUERY_ENCODER, Role.ITEM_ENCODER)}, warehouse.vocabularies(True),
        dimension=warehouse.DIMENSION, seed=seed,
    )  # fmt: skip


def listing(bundle, name) -> list[tuple[str, float]]:
    rows, scores = bundle.recommenders["things"].sources[name].listing
    return list(zip(bundle.snapshot.keys_of(rows).tolist(), scores.tolist(), strict=True))


def test_a_bundle_has_listings_items_and_models_of_all_sources(repo):
    summary = materialize(repo, as_of=AS_OF)
    bundle = bundle_of(repo)
    sources = bundle.recommenders["things"].sources
    assert list(sources) == [section["name"] for section in SOURCES]
    assert listing(bundle, "trending") == [(IDS[0], 2.0), (IDS[2], 2.0), (IDS[3], 1.0)]
    assert listing(bundle, "ever") == [(IDS[2], 4.0), (IDS[0], 2.0), (IDS[3], 1.0), (IDS[4], 1.0)]
    assert listing(bundle, "priciest") == [(IDS[0], 10.0), (IDS[3], 3.0), (IDS[4], 3.0), (IDS[2], 0.5)]
    assert [item for item, _ in listing(bundle, "lately")] == IDS[:4][::-1]
    assert (sources["own"].model, sources["own"].listing, sources["own"].rows) == (None, None, None)
    assert bundle.snapshot.keys_of(sources["new"].rows).tolist() == [IDS[1], *IDS[3:]]
    assert bundle.snapshot.keys_of(sources["alike"].rows).tolist() == [IDS[0], IDS[3], IDS[4]]
    assert sources["new"].model is sources["alike"].model
    np.testing.assert_array_equal(
        sources["new"].model.index.vectors_of(np.arange(warehouse.N)), warehouse.expected_vectors(True, seed=7)
    )
    assert counts(summary, "embed items for things+content") == {"embedded": warehouse.N, "reused": 0}
    found = [finding for finding in examine(repo) if ".sources." in finding.subject]
    assert {finding.severity for finding in found} == {"ok"}
    assert len(found) == len(SOURCES)


def test_nothing_new_stays_nothing_new_until_likes_leave_the_window(repo):
    first = materialize(repo, as_of=AS_OF)
    assert not materialize(repo, as_of=AS_OF + timedelta(hours=6)).published
    later = materialize(repo, as_of=AS_OF + timedelta(days=1))
    assert later.published
    assert counts(later, "embed items for things+content") == {"embedded": 0, "reused": warehouse.N}
    assert later.bundle_id != first.bundle_id
    assert listing(bundle_of(repo), "trending") == [(IDS[0], 2.0)]


def test_another_model_or_another_setting_of_a_source_is_something_new(repo, tmp_path):
    materialize(repo, as_of=AS_OF)
    export_content(tmp_path, seed=8)
    summary = materialize(repo, as_of=AS_OF)
    assert counts(summary, "embed items for things") == {"embedded": 0, "reused": warehouse.N}
    assert counts(summary, "embed items for things+content") == {"embedded": warehouse.N, "reused": 0}
    fewer = [{**SOURCES[1], "days": 1}, SOURCES[5], {**SOURCES[2], "quota": 9}]
    warehouse.change_settings(tmp_path, {"recommenders": things(fewer)})
    changed = open_repo(tmp_path)
    subjects = {f.subject.rpartition(".")[2]: f for f in examine(changed) if f.severity == "warning"}
    assert "other settings" in subjects["trending"].message
    assert materialize(changed, as_of=AS_OF).published
    assert listing(bundle_of(changed), "trending") == [(IDS[0], 2.0)]
    assert list(bundle_of(changed).recommenders["things"].sources) == ["trending", "new", "ever"]
    assert not materialize(changed, as_of=AS_OF).published


UNFIT = [
    ({"kind": "recent", "by": "catalogue:released"}, "by", "orders items by catalogue:released"),
    ({"kind": "recent", "by": "catalogue:title"}, "by", "which is string"),
    ({"kind": "recent", "by": "catalogue:tags"}, "by", "which is a list"),
    ({"model": "nowhere"}, "model", "takes the retrieval model 'nowhere'"),
    ({"filter": {"type": "eq", "key": "catalogue:nothing", "value": 1}}, "filter", "catalogue:nothing"),
]


def test_what_the_catalogue_does_not_have_stops_the_job_and_is_found_before(repo, tmp_path):
    for source, setting, message in UNFIT:
        warehouse.change_settings(tmp_path, {"recommenders": things([{"name": "odd", **source}])})
        changed = open_repo(tmp_path)
        with pytest.raises(InvalidSettings, match=r".") as refused:
            materialize(changed, as_of=AS_OF)
        assert refused.value.field == f"recsys.recommenders.things.sources.odd.{setting}"
        assert message in refused.value.message
        found = [f for f in examine(changed) if f.severity == "error"]
        assert [f.subject for f in found] == [f"recsys.recommenders.things.sources.odd.{setting}"]


def test_listings_by_brute_force():
    random = np.random.default_rng(0)
    values = random.integers(-3, 4, 50).astype(np.float32)
    column = Column.of(DType.FLOAT32, [None if random.random() < 0.2 else float(v) for v in values])
    kept = [n for n in range(50) if column.valid[n]]
    rows, scores = largest(column)
    assert rows.tolist() == sorted(kept, key=lambda n: -values[n])
    assert scores.tolist() == values[rows].tolist()
    smallest = Column.of(DType.INT64, [-(2**63), 2**63 - 1, 0])
    assert largest(smallest)[0].tolist() == [1, 2, 0]
    tally = random.integers(0, 4, 50)
    rows, scores = most_liked(tally)
    assert rows.tolist() == sorted(np.flatnonzero(tally).tolist(), key=lambda n: -tally[n])
    assert scores.tolist() == tally[rows].tolist()
    assert cold(tally, 2).tolist() == [n for n in range(50) if tally[n] < 2]


def test_likes_of_items_outside_the_catalogue_count_for_nobody():
    ids = np.array(["gone", "here"], object)
    liked = Interactions(ids, ids, np.array([5, 6]), np.ones(2, np.float32), np.ones(2, np.bool_))
    assert likes(liked, np.array([], object), 6).tolist() == []
    assert likes(liked, np.array(["here", "there"], object), 6).tolist() == [1, 0]
    assert likes(liked, np.array(["here", "there"], object), 5).tolist() == [0, 0]
