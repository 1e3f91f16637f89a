"""Feast groups features by sets, whose order changes with the seed of Python's hashes. What is read does not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.conformance_world import STALE, conformance_world
from support.oracle import assert_as_feast, assert_same, bits, read_one_by_one, read_together

from feast_recsys.bundle.columns import Column
from feast_recsys.features.plan import compile_service_plan
from feast_recsys.features.repo import open_repo

ROWS = {
    "user_id": [1, 3, 999, -9],
    "shop_id": ["north", "", "north", "ž 🐎"],
    "friend_id": [2, 2, 1, 4],
    "rival_id": [-9, 1, 1, 0],
    "place": ["north", "", "x", "ž 🐎"],
}


def digest(columns: Mapping[str, Column]) -> str:
    """Names, order and every array of a read."""
    text = [
        repr([reference, [bits(column, row) for row in range(len(column))], column.status.tolist()])
        + repr([column.valid.tolist(), column.timestamps.tolist()])
        for reference, column in columns.items()
    ]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def main(folder: Path) -> None:
    """Reads as a process of its own, with the oracle beside it, and says what came."""
    repo = open_repo(folder)
    for service in ("everything", "aliased"):
        plan = compile_service_plan(repo, service)
        together, one_by_one = read_together(repo, plan, ROWS), read_one_by_one(repo, plan, ROWS)
        assert_same(together, one_by_one)
        assert_as_feast(repo, repo.store.get_feature_service(service), ROWS, together, STALE)
        sys.stdout.write(f"{service} {digest(together)}\n")


def test_every_seed_reads_the_same(tmp_path: Path, redis_or_none: str | None) -> None:
    conformance_world(tmp_path, redis_or_none)
    said = []
    for seed in ("0", "1", "2", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.fail(f"seed {seed}: {done.stderr}")
        said.append(done.stdout)
    assert said[0].count("\n") == 2
    assert set(said) == {said[0]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
