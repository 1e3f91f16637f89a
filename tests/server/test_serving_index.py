"""A server over a real channel answers from an index in the bundle as it does from exact search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.serving import serving
from support.serving_bundle import Oracle, best, publish_bundle
from support.serving_world import ITEMS, build_world

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.entry import IndexEntry
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index
from feast_recsys.bundle.index.spec import IndexSpec, spec_of
from feast_recsys.bundle.index.vectors import open_vectors
from feast_recsys.bundle.store import open_bundle
from feast_recsys.v1.recommender_service_pb2 import RetrieveRequest

SPEC = spec_of("ivf_flat", {"lists": 4, "probes": 4})
PLACE = "index/both"


def entry(spec: IndexSpec = SPEC) -> IndexEntry:
    return IndexEntry(spec, PLACE, "fixed by the settings", 0.99, 100, ITEMS)


def build(staged: Path) -> None:
    (staged / "index").mkdir()
    build_index(SPEC, np.array(open_vectors(staged / "vectors.npy")), staged / PLACE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def bundle_id(world):
    return publish_bundle(world, change=build, index=entry())


def test_retrieve_gives_what_exact_search_gives(world, bundle_id):
    oracle = Oracle(world, bundle_id)
    opened = open_bundle(world.bundles / bundle_id)
    assert not isinstance(opened.recommenders["both"].index, ExactIndex)
    with serving(world) as (_, stub):
        for number in (1, 2, 4, 99):
            user = world.id(number)
            scores = oracle.retrieval_scores(oracle.user(user))
            for k in (1, 7, ITEMS, ITEMS + 10):
                reply = stub.Retrieve(
                    RetrieveRequest(recommender="both", user_id=user, top_k=k, exclude_seen=False), timeout=5
                )
                expected = best(scores, k)
                assert reply.info.bundle_id == bundle_id
                assert list(reply.scores) == pytest.approx([scores[i] for i in expected], rel=1e-5, abs=1e-5)
                assert len(set(reply.item_ids)) == len(expected)
            without = expected[:30]
            reply = stub.Retrieve(
                RetrieveRequest(
                    recommender="both", user_id=user, top_k=ITEMS, exclude_seen=False, exclude_item_ids=without
                ),
                timeout=5,
            )
            assert set(reply.item_ids) == set(expected[30:])


def copy(world, bundle_id, folder):
    shutil.copytree(world.bundles / bundle_id, folder)
    return folder


def test_an_altered_index_is_refused_by_the_name_of_its_file(world, bundle_id, tmp_path):
    folder = copy(world, bundle_id, tmp_path / "altered")
    for path in sorted(p for p in (folder / PLACE).rglob("*") if p.is_file()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CorruptArtifact, match=path.name):
            open_bundle(folder)
        path.write_bytes(content)
    open_bundle(folder)


def test_a_missing_index_is_refused_by_name_even_where_nobody_verifies(world, bundle_id, tmp_path):
    folder = copy(world, bundle_id, tmp_path / "missing")
    shutil.rmtree(folder / PLACE)
    with pytest.raises(CorruptArtifact, match=PLACE):
        open_bundle(folder, verified=True)


def test_a_truncated_index_is_refused_by_name_even_where_nobody_verifies(world, bundle_id, tmp_path):
    folder = copy(world, bundle_id, tmp_path / "short")
    for path in sorted(p for p in (folder / PLACE).rglob("*") if p.is_file()):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CorruptArtifact, match=PLACE):
            open_bundle(folder, verified=True)
        path.write_bytes(content)


def change_index(folder, **changes):
    document = json.loads((folder / "manifest.json").read_text())
    for recommender in document["recommenders"].values():
        recommender["index"] |= changes
    (folder / "manifest.json").write_text(json.dumps(document))


def test_a_kind_that_this_version_does_not_know_is_refused(world, bundle_id, tmp_path):
    folder = copy(world, bundle_id, tmp_path / "unknown")
    change_index(folder, spec={"kind": "crystal_ball", "build": {}, "search": {}})
    with pytest.raises(CorruptArtifact, match="crystal_ball"):
        open_bundle(folder)


def test_a_manifest_from_before_there_was_a_choice_means_exact_search(world, bundle_id, tmp_path):
    folder = copy(world, bundle_id, tmp_path / "old")
    document = json.loads((folder / "manifest.json").read_text())
    for recommender in document["recommenders"].values():
        del recommender["index"]
    (folder / "manifest.json").write_text(json.dumps(document))
    opened = open_bundle(folder)
    assert isinstance(opened.recommenders["both"].index, ExactIndex)
    assert opened.manifest.recommenders["both"].index is None


def test_what_a_manifest_says_of_an_index_survives_the_file(world, bundle_id):
    opened = open_bundle(world.bundles / bundle_id)
    assert opened.manifest.recommenders["both"].index == entry()
