"""Users' query vectors on their way to Feast, as features for whatever model wants them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.signature import Role, Side
from feast_recsys.features.entity_ids import user_ids
from feast_recsys.features.repo import Repo, entity_key
from feast_recsys.jobs.audit import SAMPLE, sample_rows
from feast_recsys.jobs.embed import Vectors
from feast_recsys.jobs.encode_users import encode_users, stored_references
from feast_recsys.jobs.exported import ExportedModel
from feast_recsys.jobs.report import Journal
from feast_recsys.jobs.write_vectors import VectorView, differing, stored_vectors, write_vectors


def write_user_vectors(
    repo: Repo, target: VectorView, models: Mapping[str, ExportedModel], as_of: datetime, journal: Journal
) -> None:
    """Runs the query encoders over all users and writes what they give, whether a bundle is published or not.

    Users change with every event, so nothing of an earlier run is relied on: the cost is that of all users each time.
    Left out are those of whom the online store knows nothing, or not all that an encoder requires.

    Args:
        repo: The repository.
        target: Where to; see `vector_views`.
        models: The retrieval models, by recommender.
        as_of: Users known to the offline store up to this moment.
        journal: Hears of the steps.

    Raises:
        InvalidRepository, OnlineStoreUnavailable, StaleFeature: users can't be read.
        JobFailed: an encoder fails, a store refuses the rows, or they read back otherwise.
    """
    key = entity_key(repo, Side.USER)
    with journal.step(f"encode users for {target.view.name}") as outcome:
        ids, vectors = _encode(repo, target, models, as_of, journal)
        outcome.text = f"{len(ids)} users"
        outcome.counts["users"] = len(ids)
    with journal.step(f"write vectors to {target.view.name}") as outcome:
        outcome.text = "nobody is known online"
        outcome.counts |= {"written": len(ids), "read_back": 0}
        if not len(ids):
            return
        rows = sample_rows(len(ids), SAMPLE, int(as_of.timestamp()))
        sample = ids[rows].tolist()
        before = stored_vectors(repo, target, key, sample)
        newest = max((moment for answer in before.values() for moment in answer.moments), default=0.0)
        write_vectors(
            repo, target, key, ids, vectors, after=newest, keep=repo.settings.keep_bundles, progress=journal.progress
        )  # fmt: skip
        after = stored_vectors(repo, target, key, sample)
        for recommender, reference in target.references.items():
            wrong = differing(after[recommender], vectors[recommender], rows)
            if wrong:
                raise JobFailed(
                    f"{reference} was written, but reads back otherwise for {len(wrong)} of {len(rows)} users, such as "
                    f"{ids[wrong[0]]}; check the online store, and that its clock and this one agree",
                    field=reference,
                )
        outcome.text = f"{len(ids)} rows, {len(rows)} read back"
        outcome.counts["read_back"] = len(rows)


def _encode(
    repo: Repo, target: VectorView, models: Mapping[str, ExportedModel], as_of: datetime, journal: Journal
) -> tuple[Array, dict[str, Vectors]]:
    """Users of whom all encoders know enough, and their vectors by recommender."""
    graphs = [models[name].signature.graphs[Role.QUERY_ENCODER] for name in target.features]
    references = tuple(dict.fromkeys(reference for graph in graphs for reference in stored_references(graph)))
    services = dict.fromkeys(graph.feature_service for graph in graphs if graph.feature_service)
    ids = user_ids(repo, references, as_of, *services)
    found = {name: encode_users(repo, models[name], ids, progress=journal.progress) for name in target.features}
    known = np.logical_and.reduce([known for _, known in found.values()])
    return ids[known], {name: vectors[known] for name, (vectors, _) in found.items()}
