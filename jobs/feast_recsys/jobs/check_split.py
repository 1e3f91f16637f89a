"""Checks of what the division of a ranker saves, and whether the server can use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from feast_recsys.bundle.errors import RecsysError
from feast_recsys.bundle.signature import Role, Side
from feast_recsys.features.repo import Repo
from feast_recsys.features.schema import FRESHNESS, feature_schema
from feast_recsys.jobs.exported import ExportedModel
from feast_recsys.jobs.findings import Finding, ok

EXPORT_AGAIN = "train and export again; for a module of your own say `fresh: true` of that input and export again"


def check_split(repo: Repo, model: ExportedModel) -> Iterator[Finding]:
    """What is computed before a request comes, and what fresh views keep from it."""
    graph, facts = model.signature.graphs[Role.RANKER], model.signature.metadata.get("split", {})
    fresh = [r for r in graph.references(Side.ITEM) if _is_fresh(repo, r)]
    if graph.split is None:
        message = f"the ranker is served whole: {facts.get('why', 'its export did not divide it')}"
        yield _hindered(model, message, fresh) if fresh else ok(model.name, message)
        return
    kept = graph.split.item.inputs if graph.split.item is not None else ()
    stale = [r for r in fresh if any(i.feature == r and i.name in kept for i in graph.inputs)]
    if stale:
        # The server does the same: values that were worked in beforehand would be old.
        message = "the ranker is served whole: its export keeps of each item what a view gave that is fresh now"
        yield _hindered(model, message, stale, EXPORT_AGAIN)
        return
    inputs = [i for i in graph.inputs if i.side is Side.ITEM]
    beforehand = (
        f"{sum(i.name in graph.split.hoisted for i in inputs)} of {len(inputs)} inputs of an item are worked in"
    )
    message = f"the ranker is split: {_saved(facts)}; {beforehand} beforehand"
    yield _hindered(model, message, fresh) if fresh and not kept else ok(model.name, message)


def _hindered(
    model: ExportedModel, message: str, fresh: Sequence[str], remedy: str = "tag only views that must count at once"
) -> Finding:
    read = f"{', '.join(fresh)} is read at each request ({FRESHNESS}: online)"
    return Finding("warning", model.name, f"{message}; {read}", remedy)


def _is_fresh(repo: Repo, reference: str) -> bool:
    try:
        return feature_schema(repo, reference).fresh
    except RecsysError:  # the check of the inputs tells that it is not there
        return False


def _saved(facts: Mapping[str, Any]) -> str:
    """Operations and lookups for each candidate, before and after."""
    try:
        flops, lookups = facts["flops_per_candidate"], facts["lookups_per_candidate"]
        return (
            f"{flops['whole']:,} -> {flops['served']:,} FLOPs and {lookups['whole']:,} -> {lookups['served']:,} "
            f"lookups per candidate, {facts['item_columns_bytes']:,} bytes kept per item"
        )
    except (KeyError, TypeError, ValueError):  # model.yaml is a file that people may write
        return "its export did not say what that saves"
