"""Materialization: from the offline store and exported models to a published bundle.

lease, models, feature views, catalogue, item vectors (made, written to Feast, read back), bundle (written, audited,
published). Nothing changes what is being served before the last of these, and that is one rename.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.bundle.index.by_metric import Searched
from feast_recsys.bundle.index.entry import IndexEntry
from feast_recsys.bundle.manifest import Manifest, inventory
from feast_recsys.bundle.progress import Reporter, Silent
from feast_recsys.bundle.signature import Role, Side, Stage
from feast_recsys.bundle.snapshot import open_snapshot
from feast_recsys.bundle.store import SNAPSHOT_FOLDER, next_id, publish, stage
from feast_recsys.features.catalogue import Catalogue, read_catalogue
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.jobs.assemble import ITEM_COLUMNS, Models, facts, searched_by, write_catalogue, write_files
from feast_recsys.jobs.audit import audit, sampled
from feast_recsys.jobs.carry_index import carry_indexes
from feast_recsys.jobs.choose_index import INDEXES, choose_indexes
from feast_recsys.jobs.embed import Vectors, embed, with_key
from feast_recsys.jobs.exported import item_encoder, item_references, misfits, model_names, open_model
from feast_recsys.jobs.feast_step import materialize_views
from feast_recsys.jobs.fingerprint import fingerprint
from feast_recsys.jobs.item_columns import write_item_columns
from feast_recsys.jobs.lease import hold_lease
from feast_recsys.jobs.previous import Previous, open_previous, reuse_vectors
from feast_recsys.jobs.registry import snapshot_references
from feast_recsys.jobs.remote_index import Filling, engines_of, reach_engines
from feast_recsys.jobs.remote_tidying import drop_leftovers, follow_pointer
from feast_recsys.jobs.report import Journal, Mode, Summary
from feast_recsys.jobs.sound import sounds_of
from feast_recsys.jobs.sources import SourceData, add_sources, open_source_models, read_source_data
from feast_recsys.jobs.user_vectors import write_user_vectors
from feast_recsys.jobs.vector_step import VectorStep
from feast_recsys.jobs.write_vectors import VectorView, vector_views

# There from the first item vector written to Feast until the bundle with the same vectors is published.
_PENDING = ".pending"


def materialize(
    repo: Repo, *, mode: Mode = "incremental", as_of: datetime | None = None, reporter: Reporter | None = None
) -> Summary:
    """Brings the online store up to date, and publishes a bundle of it.

    Args:
        repo: The repository. Its settings name models, catalogue and folders.
        mode: `incremental` continues where the last run stood, computes only the item vectors that changed, and
            publishes nothing if nothing is new. `full` starts from the beginning and always publishes.
        as_of: Moment to bring everything up to, with a time zone; now if None. Not in the future.
        reporter: Hears how far the job is. While Feast works, `sys.stdout` is redirected: write to `sys.stderr`.

    Returns:
        What was done.

    Raises:
        InvalidArgument: `as_of` has no time zone or lies in the future.
        InvalidSettings, InvalidRepository, InvalidSignature, CorruptArtifact: settings, models and Feast repository
            do not fit together; names the feature or file and the remedy.
        OnlineStoreUnavailable: the online store can't be read.
        IndexUnavailable: the server of an index does not answer.
        JobFailed: another job is running, or a step failed. What was published before stays.
    """
    moment = _moment(as_of)
    root = repo.resolve(repo.settings.bundles)
    with hold_lease(root):
        return _Job(repo, mode, moment, Journal(reporter or Silent())).run()


@dataclass(frozen=True)
class _Job:
    repo: Repo
    mode: Mode
    as_of: datetime
    journal: Journal

    def run(self) -> Summary:
        root = self.repo.resolve(self.repo.settings.bundles)
        models, targets, user_targets = self._open_models()
        self._materialize_views()
        retrieval = {recommender: model for (recommender, role), model in models.items() if role is Stage.RETRIEVAL}
        for target in user_targets:
            write_user_vectors(self.repo, target, retrieval, self.as_of, self.journal)
        previous = self._previous()
        catalogue = self._read_catalogue(models, previous)
        sources = read_source_data(self.repo, catalogue, int(self.as_of.timestamp()))
        made_of = fingerprint(self.repo, models.values(), catalogue, sources)
        if previous is not None and previous.bundle.manifest.fingerprint == made_of:
            follow_pointer(root, self.journal)
            drop_leftovers(root, self.journal)
            return self._summary(previous.bundle.id, False, len(catalogue))
        reach_engines(self.repo)
        drop_leftovers(root, self.journal)
        key = entity_key(self.repo, Side.ITEM)
        vectors = self._embed(models, catalogue, key, previous)
        (root / _PENDING).touch()
        for target in targets:
            with self.journal.step(f"write vectors to {target.view.name}") as outcome:
                step = VectorStep(self.repo, target, key, catalogue.ids, vectors, int(self.as_of.timestamp()))
                done = step.run(previous, self.journal.progress)
                outcome.counts |= {"written": done.written, "read_back": done.read_back}
                outcome.text = (
                    f"{_count(done.written, 'row')}, {done.read_back} read back" if done.written else "unchanged"
                )
        bundle_id = self._publish(models, catalogue, key, vectors, made_of, sources, previous)
        (root / _PENDING).unlink()
        follow_pointer(root, self.journal)
        drop_leftovers(root, self.journal)
        return self._summary(bundle_id, True, len(catalogue))

    def _previous(self) -> Previous | None:
        """The last bundle, if this run may build on it."""
        root = self.repo.resolve(self.repo.settings.bundles)
        if self.mode == "full":
            return None
        if (root / _PENDING).exists():
            self.journal.notes.append("the last run did not end: all item vectors are computed and written again")
            return None
        previous, note = open_previous(root)
        if note:
            self.journal.notes.append(note)
        return previous

    def _open_models(self) -> tuple[Models, list[VectorView], list[VectorView]]:
        with self.journal.step("open models") as outcome:
            self.repo.store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast has no annotation here
            models = {
                (recommender, role): open_model(self.repo, recommender, role, name)
                for (recommender, role), name in model_names(self.repo).items()
            }
            models |= open_source_models(self.repo)
            for model in models.values():
                for error in misfits(self.repo, model):
                    raise error
            targets, user_targets = vector_views(self.repo), vector_views(self.repo, Side.USER)
            distinct = sorted({model.name for model in models.values()})
            outcome.text = ", ".join(distinct)
            outcome.counts["models"] = len(distinct)
        return models, targets, user_targets

    def _materialize_views(self) -> None:
        with self.journal.step("materialize feature views") as outcome:
            done = materialize_views(self.repo, self.mode, self.as_of, self.journal.progress)
            outcome.counts |= {"materialized": len(done.materialized), "skipped": len(done.skipped)}
            outcome.text = f"{_count(len(done.materialized), 'view')} up to {self.as_of:%Y-%m-%d %H:%M:%S} UTC"
            self.journal.notes += [f"feature view {name!r} was skipped: {why}" for name, why in done.skipped.items()]

    def _read_catalogue(self, models: Models, previous: Previous | None) -> Catalogue:
        with self.journal.step("read catalogue") as outcome:
            needed = [reference for model in models.values() for reference in item_references(model)]
            references, notes = snapshot_references(self.repo, needed)
            self.journal.notes += notes
            known = previous.known(self.repo) if previous is not None else None
            catalogue = read_catalogue(self.repo, references, self.as_of, known=known, progress=self.journal.progress)
            if not len(catalogue):
                raise InvalidRepository(
                    f"catalogue view {self.repo.settings.catalogue!r} has no item up to {self.as_of.isoformat()}; "
                    "check its source and --as-of",
                    field="recsys.catalogue",
                )
            read = len(catalogue.read_rows)
            outcome.counts |= {"items": len(catalogue), "features": len(references), "read": read}
            outcome.text = f"{_count(len(catalogue), 'item')}, {_count(len(references), 'feature')}"
            if read < len(catalogue):
                outcome.text += f", {read} read"
        return catalogue

    def _embed(
        self, models: Models, catalogue: Catalogue, key: EntityKey, previous: Previous | None
    ) -> dict[str, Vectors]:
        columns = with_key(catalogue.columns, key.join_key, catalogue.ids)
        vectors = {}
        for recommender, model in ((name, model) for (name, role), model in models.items() if role is Stage.RETRIEVAL):
            with self.journal.step(f"embed items for {recommender}") as outcome:
                matrix, todo = reuse_vectors(
                    previous, recommender, model, key.join_key, catalogue.ids, columns, catalogue.known_rows
                )
                encoder = item_encoder(model)
                matrix[todo] = embed(
                    encoder, columns, catalogue.ids, todo, model.signature.dimension,
                    sounds=sounds_of(self.repo, model.folder, encoder.graph.inputs), progress=self.journal.progress,
                )  # fmt: skip
                vectors[recommender] = matrix
                reused = len(catalogue) - len(todo)
                outcome.counts |= {"embedded": len(todo), "reused": reused}
                outcome.text = _count(len(todo), "vector") + (f", {reused} unchanged" if reused else "")
        return vectors

    def _publish(
        self,
        models: Models,
        catalogue: Catalogue,
        key: EntityKey,
        vectors: Mapping[str, Vectors],
        made_of: str,
        sources: SourceData,
        previous: Previous | None,
    ) -> str:
        root = self.repo.resolve(self.repo.settings.bundles)
        now = datetime.now(timezone.utc)
        bundle_id = next_id(root, now, made_of)
        staged = stage(root)
        self._write_item_columns(staged, models, catalogue, key, previous)
        searched = searched_by(models, vectors, previous.centres if previous is not None else None)
        carried = self._carry_indexes(catalogue, vectors, models, searched, previous, staged)
        if engines_of(self.repo):
            write_catalogue(staged, catalogue)
            filling = Filling(self.repo, models, staged, bundle_id, self.as_of, self.journal)
            carried |= filling.run(open_snapshot(staged / SNAPSHOT_FOLDER), searched)
        indexes = choose_indexes(
            self.repo, models, searched, staged, self.journal, mode=self.mode, as_of=self.as_of, carried=carried
        )
        with self.journal.step("write bundle") as outcome:
            entries = write_files(staged, models, catalogue, vectors, indexes, searched)
            entries = add_sources(self.repo, staged, open_snapshot(staged / SNAPSHOT_FOLDER), sources, entries)
            # What is linked from the last bundle was held against its manifest when that was opened.
            there = (root / previous.bundle.id, previous.bundle.manifest) if previous is not None else None
            files = inventory(staged, there)
            outcome.counts |= {"files": len(files), "bytes": sum(entry.bytes for entry in files.values())}
            outcome.text = f"{_count(len(files), 'file')}, {outcome.counts['bytes'] / 1e6:.1f} MB"
        with self.journal.step("audit") as outcome:
            snapshot = open_snapshot(staged / SNAPSHOT_FOLDER)
            # What was read anew is looked at too: it may be few among many.
            seed = int(self.as_of.timestamp())
            rows = np.union1d(sampled(np.arange(len(snapshot)), seed), sampled(catalogue.read_rows, seed))
            result = audit(self.repo, key, snapshot, rows)
            outcome.counts |= {"items": result.items, "values": result.values, "drifted": result.drifted}
            outcome.text = f"{_count(result.items, 'item')}, {_count(result.values, 'value')} equal"
            if result.drifted:
                outcome.text += f", {result.drifted} newer online"
        with self.journal.step("publish") as outcome:
            metadata = facts(self.repo, self.mode, now, models.values(), catalogue)
            metadata["audit"] = {"items": result.items, "values": result.values, "drifted": result.drifted}
            manifest = Manifest(
                bundle_id,
                int(self.as_of.timestamp()),
                made_of,
                len(catalogue),
                self.repo.store.project,
                entries,
                files,
                metadata,
            )
            publish(root, staged, manifest, keep=self.repo.settings.keep_bundles, verified=True)
            outcome.text = manifest.bundle_id
        return manifest.bundle_id

    def _carry_indexes(
        self,
        catalogue: Catalogue,
        vectors: Mapping[str, Vectors],
        models: Models,
        searched: Mapping[str, Searched],
        previous: Previous | None,
        staged: Path,
    ) -> dict[str, IndexEntry]:
        root = self.repo.resolve(self.repo.settings.bundles)
        if previous is None or all(entry.folder is None for entry in previous.indexes):
            return {}
        with self.journal.step("carry indexes on") as outcome:
            same = {
                name: matrix
                for name, matrix in vectors.items()
                if previous.alike(name, models[name, Stage.RETRIEVAL], searched[name])
            }
            carried = carry_indexes(self.repo, root, previous, catalogue.ids, same, staged, INDEXES)
            outcome.text = ", ".join(carried) or "too much has changed"
            outcome.counts["carried"] = len(carried)
        return carried

    def _write_item_columns(
        self, staged: Path, models: Models, catalogue: Catalogue, key: EntityKey, previous: Previous | None
    ) -> None:
        """Runs the item parts of split rankers, each model's once."""
        columns = with_key(catalogue.columns, key.join_key, catalogue.ids)
        for model in {m.name: m for m in models.values() if m.item_part is not None}.values():
            assert model.item_part is not None
            with self.journal.step(f"run item part of {model.name}") as outcome:
                known = previous.item_columns(model, catalogue.known_rows) if previous is not None else None
                width = write_item_columns(
                    staged / ITEM_COLUMNS / model.name, model.item_part, model.signature.graphs[Role.RANKER].inputs,
                    columns, catalogue.ids, known=known, progress=self.journal.progress,
                )  # fmt: skip
                done = len(catalogue) if known is None else len(catalogue.read_rows)
                outcome.counts |= {"items": done, "bytes_per_item": width}
                outcome.text = f"{_count(done, 'item')}, {width} bytes each"

    def _summary(self, bundle_id: str, published: bool, items: int) -> Summary:
        steps, notes = tuple(self.journal.steps), tuple(self.journal.notes)
        return Summary(self.mode, self.as_of, bundle_id, published, items, steps, notes)


def _moment(as_of: datetime | None) -> datetime:
    now = datetime.now(timezone.utc)
    if as_of is None:
        return now
    if as_of.tzinfo is None:
        raise InvalidArgument("as_of has no time zone; give one, such as 2026-01-31T12:00:00Z", field="as_of")
    if as_of > now:
        raise InvalidArgument(
            f"as_of {as_of.isoformat()} lies in the future; Feast would skip what arrives until then", field="as_of"
        )
    return as_of.astimezone(timezone.utc)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
