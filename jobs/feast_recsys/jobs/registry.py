"""What Feast's registry declares, in one hash, and which item features there are to put into a snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.repo import Repo, entity_key
from feast_recsys.features.schema import entities_of, kind_of


def registry_hash(repo: Repo) -> str:
    """SHA-256, as hex, over the declarations of entities, views and services; what was materialized doesn't count."""
    proto = repo.store.registry.proto()
    digest = hashlib.sha256()
    for group in (proto.entities, proto.feature_views, proto.stream_feature_views, proto.on_demand_feature_views,
                  proto.feature_services):  # fmt: skip
        specs = sorted(entry.spec.SerializeToString(deterministic=True) for entry in group)
        for spec in specs:
            digest.update(len(spec).to_bytes(8, "little"))
            digest.update(spec)
    return digest.hexdigest()


def snapshot_references(repo: Repo, needed: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All item features that can be served, in the order of views and features, without the item vectors.

    Args:
        repo: The repository.
        needed: References that models take; these must be servable.

    Returns:
        The references, and notes on views and features that were left out.

    Raises:
        InvalidRepository: a needed feature can't be served; says why.
    """
    store, entity = repo.store, entity_key(repo, Side.ITEM).entity
    vectors = {r.retrieval.vectors for r in repo.settings.recommenders.values()}
    references: list[str] = []
    notes: list[str] = []
    views = store.registry.list_all_feature_views(store.project)
    for view in sorted(views, key=lambda v: str(v.name)):
        if entities_of(repo, view) != (entity,):
            continue
        found = []
        for field in view.features:
            reference = f"{view.name}:{field.name}"
            if reference in vectors:
                continue
            try:
                kind_of(field, reference)
                found.append(reference)
            except InvalidRepository as error:
                notes.append(error.message)
        try:
            compile_plan(repo, found, Side.ITEM)
            references += found
        except InvalidRepository as error:
            notes.append(f"left out: {error.message}")
    lacking = tuple(dict.fromkeys(reference for reference in needed if reference not in references))
    if lacking:
        compile_plan(repo, lacking, Side.ITEM)  # says why
        raise InvalidRepository(
            f"{lacking[0]} holds item vectors, which can't be a model's input: the next materialization replaces them",
            field=lacking[0],
        )
    return tuple(references), tuple(notes)
