"""Milvus and Qdrant on their way through the job: filled before the bundle is published, and measured like any index.

A collection belongs to one bundle, so it is filled as a whole, and nobody asks it before the pointer names its bundle.
What follows the pointer, and what bundles leave behind, is in `remote_tidying`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from feast_recsys.bundle.index.by_metric import Searched
from feast_recsys.bundle.index.engine import Engine
from feast_recsys.bundle.index.entry import IndexEntry, Remote
from feast_recsys.bundle.index.protocol import Index, Vectors
from feast_recsys.bundle.index.remote import build_embedded, connect, fill, open_embedded, open_remote
from feast_recsys.bundle.signature import Stage
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.features.index_settings import EngineIndex
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.assemble import Models
from feast_recsys.jobs.choose_index import INDEXES, describe, exact_entry, queries_of, shortfall
from feast_recsys.jobs.index_trials import measure, time_exact
from feast_recsys.jobs.ledger import Held, Ledger, alias_of, collection_of
from feast_recsys.jobs.recall import exact_answers
from feast_recsys.jobs.report import Journal
from feast_recsys.jobs.sources import recommender_of


def engines_of(repo: Repo) -> dict[str, EngineIndex]:
    """The recommenders whose vectors an engine is to hold."""
    indexes = {name: recommender.retrieval.index for name, recommender in repo.settings.recommenders.items()}
    return {name: index for name, index in indexes.items() if isinstance(index, EngineIndex)}


@contextmanager
def connected(kind: str, address: str, timeout_seconds: float = 1.0) -> Iterator[Engine]:
    """A connection that ends with the body; see `connect`."""
    engine = connect(kind, address, timeout_seconds)
    try:
        yield engine
    finally:
        engine.close()


def reach_engines(repo: Repo) -> None:
    """Asks every server that the settings name whether it is there, before anything is done.

    Raises:
        IndexUnavailable: it is not; names engine and address.
        InvalidSettings: a client is not installed; names the extra.
    """
    for settings in engines_of(repo).values():
        if settings.address is not None:
            with connected(settings.kind, settings.address, settings.timeout_seconds):
                pass


@dataclass(frozen=True)
class Filling:
    """What engines are filled with.

    Attributes:
        repo: The repository.
        models: Exported models by recommender and stage; those of sources of candidates by their joint names.
        staged: The bundle that is being written; embedded engines go below its `index` folder.
        bundle_id: Its name to be.
        as_of: Users known up to this moment are asked.
        journal: Where steps and notes go.
    """

    repo: Repo
    models: Models
    staged: Path
    bundle_id: str
    as_of: datetime
    journal: Journal

    def run(self, snapshot: Snapshot, searched: Mapping[str, Searched]) -> dict[str, IndexEntry]:
        """Fills and measures the engines of the recommenders, and of models of their sources; a step for each.

        Args:
            snapshot: The catalogue of the bundle, whose columns go with the vectors.
            searched: Item vectors by recommender or joint name; those without an engine are passed over.

        Returns:
            What the manifest says of the indexes that were filled.

        Raises:
            IndexUnavailable: a server does not answer, or fails.
            InvalidSettings: a client is not installed.
            JobFailed: a collection has not as many items as the catalogue.
        """
        engines, entries = engines_of(self.repo), {}
        for name, made_of in searched.items():
            settings = engines.get(recommender_of(name))
            if settings is not None:
                with self.journal.step(f"fill {settings.kind} for {name}") as outcome:
                    entry = entries[name] = self._entry(name, settings, snapshot, made_of)
                    outcome.text = describe(entry)
                    outcome.counts |= {"items": len(made_of.vectors), "queries": entry.queries}
                if warning := shortfall(entry):
                    self.journal.notes.append(f"index of {name}: {warning}")
        return entries

    def _entry(self, name: str, settings: EngineIndex, snapshot: Snapshot, searched: Searched) -> IndexEntry:
        start, vectors = time.monotonic(), searched.vectors
        entry = replace(exact_entry(settings, len(vectors), ""), spec=settings.spec())
        if settings.address is None:
            entry = replace(entry, folder=f"{INDEXES}/{name}")
            index = self._embed(entry, snapshot, vectors)
        else:
            collection = collection_of(self.repo.store.project, name, self.bundle_id)
            entry = replace(entry, remote=Remote(settings.address, collection, settings.timeout_seconds))
            index = self._upload(name, entry, snapshot, vectors)
        return self._measured(name, settings, entry, index, searched, time.monotonic() - start)

    def _embed(self, entry: IndexEntry, snapshot: Snapshot, vectors: Vectors) -> Index:
        folder = self.staged / str(entry.folder)
        build_embedded(entry.spec, vectors, folder, snapshot, progress=self.journal.progress)
        return open_embedded(entry.spec, folder, vectors, snapshot)

    def _upload(self, name: str, entry: IndexEntry, snapshot: Snapshot, vectors: Vectors) -> Index:
        remote, kind = entry.remote, entry.spec.kind
        assert remote is not None
        root = self.repo.resolve(self.repo.settings.bundles)
        alias = alias_of(self.repo.store.project, name)
        with connected(kind, remote.address, remote.timeout_seconds) as engine:
            # First the line, then the collection: a job that dies in between leaves nothing that nobody knows of.
            Ledger(root).add([Held(kind, remote.address, remote.collection, alias, self.bundle_id)])
            fill(engine, remote.collection, entry.spec, vectors, snapshot, progress=self.journal.progress)
        return open_remote(entry.spec, remote, vectors, snapshot)

    def _measured(
        self, name: str, settings: EngineIndex, entry: IndexEntry, index: Index, searched: Searched, seconds: float
    ) -> IndexEntry:
        """With recall and time, if anybody can be asked."""
        model, vectors = self.models[name, Stage.RETRIEVAL], searched.vectors
        queries = queries_of(self.repo, model, searched, settings.sample, self.as_of)
        entry = replace(entry, queries=len(queries.vectors), asked=queries.asked)
        if not len(queries.vectors):
            return entry
        exact, truth = time_exact(vectors, settings.k), exact_answers(vectors, queries.vectors, settings.k)
        folder = self.staged / entry.folder if entry.folder is not None else None
        point = measure(entry.spec, index, truth, settings.k, seconds, folder)
        return replace(entry, measured=point, curve=(exact, point))
