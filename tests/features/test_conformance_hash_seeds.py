"""Feast groups features by sets, whose order changes with the seed of Python's hashes. What is read does not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from feast_recsys.bundle.columns import Column

ROWS = {
    "user_id": [1, 3, 999, -9],
    "shop_id": ["north", "", "north", "ž 🐎"],
    "friend_id": [2, 2, 1, 4],
    "rival_id": [-9, 1, 1, 0],
    "place": ["north", "", "x", "ž 🐎"],
}
SEEDS = ("0", "1", "2", "4242")
STORES = ("sqlite", "redis")
SERVICES = ("everything", "aliased")

Said = dict[str, dict[str, list[str]]]


def digest(columns: Mapping[str, Column]) -> str:
    """Names, order and every array of a read."""
    from support.oracle import bits

    text = [
        repr([reference, [bits(column, row) for row in range(len(column))], column.status.tolist()])
        + repr([column.valid.tolist(), column.timestamps.tolist()])
        for reference, column in columns.items()
    ]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def main(folder: Path) -> None:
    """Reads every store as a process of its own, with the oracle beside it, and says what came."""
    from feast_recsys.server.imports import quickly

    with quickly():  # most of the time of this test would go into what Feast imports and nobody here uses
        from support.conformance_world import STALE
        from support.oracle import assert_as_feast, assert_same, read_one_by_one, read_together

        from feast_recsys.features.plan import compile_service_plan
        from feast_recsys.features.repo import open_repo

    for name in STORES:
        repo = open_repo(folder / name)
        for service in SERVICES:
            plan = compile_service_plan(repo, service)
            together, one_by_one = read_together(repo, plan, ROWS), read_one_by_one(repo, plan, ROWS)
            assert_same(together, one_by_one)
            assert_as_feast(repo, repo.store.get_feature_service(service), ROWS, together, STALE)
            sys.stdout.write(f"{name} {service} {digest(together)}\n")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Said:
    """Lines by store and seed, of one process for each seed; all run at the same time."""
    from support.conformance_world import conformance_world

    folder = tmp_path_factory.mktemp("seeds")
    for name in STORES:
        conformance_world(folder / name, redis_server if name == "redis" else None)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    readers = {
        seed: subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in SEEDS
    }
    ended = {seed: (*reader.communicate(), reader.returncode) for seed, reader in readers.items()}
    failed = [f"seed {seed}: {errors}" for seed, (_, errors, code) in ended.items() if code]
    if failed:
        pytest.fail("\n".join(failed))
    return {
        name: {seed: [line for line in out.splitlines() if line.startswith(name)] for seed, (out, *_) in ended.items()}
        for name in STORES
    }


@pytest.mark.parametrize("store", STORES)
def test_every_seed_reads_the_same(said: Said, store: str) -> None:
    first = said[store][SEEDS[0]]
    assert [line.split()[:2] for line in first] == [[store, service] for service in SERVICES]
    assert said[store] == dict.fromkeys(SEEDS, first)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
