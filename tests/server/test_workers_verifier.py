"""Bundles are verified once for all workers; and what one worker takes, it takes in turn."""

from __future__ import annotations

import logging

import pytest
from support.serving import wait_for
from support.serving_bundle import publish_bundle
from support.serving_world import build_world

from feast_recsys.bundle.store import current, point
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.seat import Seat, point_workers
from feast_recsys.server.warden import Verifier


@pytest.fixture
def world(tmp_path):
    return build_world(tmp_path / "world")


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def verified(caplog) -> list[str]:
    return [r.args[0] for r in caplog.records if "is verified" in r.msg]


def test_a_bundle_is_hashed_once_and_a_roll_back_waits_for_nothing(world, shared, caplog):
    caplog.set_level(logging.INFO)
    verifier = Verifier(world.bundles, shared, Metrics(), 0.01)
    verifier.look()
    assert current(shared) is None
    old, new = publish_bundle(world, seed=1), ""
    for _ in range(3):
        verifier.look()
        assert current(shared) == old
    new = publish_bundle(world, seed=2)
    for name in (new, old, new):
        point(world.bundles, name)
        verifier.look()
        assert current(shared) == name
    assert verified(caplog) == [old, new]


def test_a_file_that_changed_meanwhile_is_hashed_again(world, shared, caplog):
    metrics = Metrics().open()
    verifier = Verifier(world.bundles, shared, metrics, 0.01)
    old, path = publish_bundle(world, seed=1), world.bundles / current(world.bundles) / "vectors.npy"
    verifier.look()
    new = publish_bundle(world, seed=2)
    verifier.look()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    point(world.bundles, old)
    verifier.look()
    assert current(shared) == new
    assert f"bundle {old} is refused" in caplog.text
    assert "vectors.npy" in caplog.text
    refused = metrics.registry.get_sample_value
    assert refused("feast_recsys_bundle_failures_total") == 1
    path.write_bytes(content)

    def looked() -> bool:
        verifier.look()
        return current(shared) == old

    wait_for(looked, "the attempt after the pause")


def test_one_worker_at_a_time_has_the_turn(shared):
    first, second = Seat(shared, "worker-1"), Seat(shared, "worker-2")
    with first.turn() as mine:
        assert mine
        with second.turn() as others:
            assert not others
    with second.turn() as mine:
        assert mine


def test_workers_are_pointed_by_one_rename(shared):
    point_workers(shared, "a")
    point_workers(shared, "b")
    assert current(shared) == "b"
    assert [path.name for path in shared.iterdir()] == ["CURRENT"]
