"""SIGKILL while a collection is filled, published, pointed at or dropped: the last good bundle goes on answering from
its own, and the next run leaves just the collections of the bundles that are there."""

from __future__ import annotations

import shutil
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from support import warehouse
from support.killing import Killer
from support.milvus_server import MilvusServer

from feast_recsys.bundle.index.remote import connect
from feast_recsys.bundle.progress import Silent
from feast_recsys.bundle.store import current, history, open_bundle
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.ledger import collection_of
from feast_recsys.jobs.pipeline import materialize

# Of the changes to the folder of bundles: some while the bundle is being written, and closely from when it is named.
STEPS = (*range(20, 44, 12), *range(44, 1000, 3))


class Marks(Silent):
    """Changes a file whenever a job tells something: further moments to be killed at, while the server is at work."""

    def __init__(self, bundles: Path) -> None:
        self._file = bundles / ".mark"

    def start(self, step: str) -> None:
        self._file.write_text(step)

    def progress(self, done: int, total: int) -> None:
        self._file.write_text(f"{done} of {total}")


def materialize_here(bundles: Path) -> None:
    """What the killed children do. Only what changes among the bundles counts, so that no attempt dies before."""
    materialize(open_repo(bundles.parent), as_of=warehouse.AS_OF, reporter=Marks(bundles))


def expect_own_vectors(bundles, bundle_id):
    """Its index is open, has its items, and finds what its own vectors say."""
    folder = bundles / bundle_id
    vectors = np.load(folder / "vectors/things.npy")
    _, scores = open_bundle(folder).recommenders["things"].index.search(vectors, warehouse.N)
    np.testing.assert_allclose(scores, -np.sort(-(vectors @ vectors.T), axis=1), rtol=1e-5, atol=1e-5)


def test_killed_at_any_moment_the_old_collection_answers_and_the_next_run_cleans_up(tmp_path):
    folder, template = tmp_path / "warehouse", tmp_path / "template"
    bundles = folder / "bundles"
    outcomes, left = [], 0
    with MilvusServer(tmp_path / "milvus.db") as server, closing(connect("milvus", server.address)) as engine:
        index = {"kind": "milvus", "address": server.address, "timeout_seconds": 30.0}
        settings = {"recommenders": {"things": {"retrieval": {"index": index}, "ranking": None}}}
        repo = warehouse.build(folder, vectors=None, settings=settings)
        alias = f"{repo.store.project}_things"
        first = materialize(repo, as_of=datetime(2024, 1, 2, tzinfo=timezone.utc))
        warehouse.export_models(folder / "models", True, seed=1)
        shutil.copytree(folder, template)
        with Killer(__name__, materialize_here.__name__) as killer:
            for step in STEPS:
                shutil.rmtree(folder)
                shutil.copytree(template, folder)
                killed = killer.attempt(bundles, step)
                now = str(current(bundles))
                expect_own_vectors(bundles, now)
                outcomes.append("old" if now == first.bundle_id else "new")
                left += len(engine.names("")) > len(history(bundles))
                materialize(open_repo(folder), as_of=warehouse.AS_OF)
                now = str(current(bundles))
                expect_own_vectors(bundles, now)
                names = [collection_of(repo.store.project, "things", bundle_id) for bundle_id in history(bundles)]
                assert engine.names("") == sorted(names)
                assert engine.aliased(alias) == names[-1]
                engine.drop(names[-1])  # the folder is about to be as it was
                engine.point(alias, names[0])
                if not killed:
                    break
    assert not killed
    assert left  # at least one attempt died with a collection that nobody was to ask
    assert outcomes == sorted(outcomes, reverse=True)  # old, old, ..., new
    assert set(outcomes) == {"old", "new"}
