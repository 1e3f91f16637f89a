"""The first runs of a bundle's graphs, before any request: smallest and largest batch."""

from __future__ import annotations

import logging

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import IndexUnavailable, InvalidSignature
from feast_recsys.bundle.signature import Input
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.ranking import Candidates, Ranker
from feast_recsys.server.sources import Nearest
from feast_recsys.server.stage import Stage
from feast_recsys.server.state import Served, ServingState

logger = logging.getLogger(__name__)


def warm_up(state: ServingState, *, candidates: int) -> None:
    """Runs every graph on defaults, with the shortest and the longest lists, and searches the indexes.

    Args:
        state: What is about to be served.
        candidates: Size of the largest batch.

    Raises:
        InvalidSignature: a graph fails on its own defaults, gives another shape than its role demands, or NaN.
    """
    for served in state.recommenders.values():
        for longest in (False, True):
            for way in _searches(served):
                query = _run(served, way.query, 1, longest, (1, way.index.dimension))
                _search(served, way, query, candidates)
            if served.ranker is not None:
                for n in (1, candidates):
                    _run(served, served.ranker.whole, n, longest, (n,))
                    _run_parts(served, served.ranker, n, longest)


def _searches(served: Served) -> list[Nearest]:
    """What a recommender runs and searches for its users, each encoder once."""
    ways = [source.way for source in (served.own, *served.sources) if isinstance(source.way, Nearest)]
    return list({id(way.query): way for way in ways}.values())


def _search(served: Served, way: Nearest, query: Array, k: int) -> None:
    """An engine that is down delays nothing, as a store that is down does not."""
    try:
        way.index.search(query, k)
    except IndexUnavailable as error:
        logger.warning("the first search of recommender %s failed: %s", served.name, error.message)


def _run(served: Served, stage: Stage, n: int, longest: bool, shape: tuple[int, ...]) -> Array:
    graph = stage.graph.graph
    tensors = {i.name: _defaults(i, 1, longest) for i in stage.user_inputs}
    tensors |= {i.name: _defaults(i, n, longest) for i in stage.item_inputs}
    where = f"the {graph.role.value} of recommender {served.name!r} ({graph.file})"
    try:
        result = stage.graph.run(tensors)
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise InvalidSignature(f"{where} fails on the defaults of its signature: {error}", field=graph.file) from error
    if result.shape != shape or result.dtype != np.float32:
        raise InvalidSignature(
            f"{where} gives {result.dtype} {list(result.shape)}, where its role demands float32 {list(shape)}",
            field=graph.file,
        )
    if not np.isfinite(result).all():
        raise InvalidSignature(f"{where} gives NaN or infinity on the defaults of its signature", field=graph.file)
    return result


def _run_parts(served: Served, ranker: Ranker, n: int, longest: bool) -> None:
    """Runs the parts on the first items, as often as need be."""
    parts = ranker.parts
    items = len(served.index)
    if parts is None or not items:
        return
    user = {i.name: _defaults(i, 1, longest) for i in ranker.whole.user_inputs}
    raw = {i.name: _defaults(i, n, longest) for i in parts.raw}
    rows = np.arange(n, dtype=np.int64) % items
    try:
        result = ranker.run_parts(Candidates(user, rows, raw), Deadline())
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        file = parts.split.cross.file
        raise InvalidSignature(
            f"the parts of the ranker of recommender {served.name!r} ({file}) fail on the defaults of its signature: "
            f"{error}",
            field=file,
        ) from error
    if result.shape != (n,) or not np.isfinite(result).all():
        raise InvalidSignature(
            f"the parts of the ranker of recommender {served.name!r} give {list(result.shape)} numbers for {n} items, "
            "or such that are not finite; export the model again",
            field=parts.split.cross.file,
        )


def _defaults(spec: Input, n: int, longest: bool) -> Array:
    if spec.max_length is None:
        return np.full(n, spec.default, spec.dtype.numpy)
    return np.full((n, spec.max_length if longest else 1), spec.pad, spec.dtype.numpy)
