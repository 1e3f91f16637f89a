"""Retrieval over the whole catalogue, as of the day of each query, without items seen before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from feast_recsys.bundle.index.reduction import INNER_PRODUCT, Metric, centre_for, items_for, queries_for, scores_for
from feast_recsys.bundle.signature import Role
from feast_recsys.models.data.events import Ints
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.tensors import Floats, ModelTensors

BLOCK = 2048  # queries scored at once


@dataclass(frozen=True)
class Candidates:
    """The best k items of each query.

    Attributes:
        items: [q, k] positions in `Events.item_ids`, best first, ties by position; -1 where there are fewer than k.
        scores: [q, k] float32, -inf where there is no item.
    """

    items: Ints
    scores: Floats


@torch.no_grad()
def score_catalogue(
    encoders: Mapping[Role, nn.Module],
    tensors: ModelTensors,
    data: TrainingData,
    queries: Queries,
    metric: Metric = INNER_PRODUCT,
) -> Iterator[tuple[Ints, Floats]]:
    """Scores of every item, some queries at a time.

    Item features are those of the latest midnight before the query, as a nightly materialization would have them.

    Args:
        encoders: Of a retrieval model.
        tensors: Their inputs.
        data: Training data.
        queries: Who asks, and when.
        metric: What the vectors are compared by; see `Signature.metric`.

    Yields:
        [m] positions of queries, and [m, I] scores; -inf for items that the user had met before.
    """
    query_encoder, item_encoder = encoders[Role.QUERY_ENCODER].eval(), encoders[Role.ITEM_ENCODER].eval()
    states, days = data.states(queries), data.day_of(queries.times)
    catalogue = np.arange(data.items)
    for day in np.unique(days).tolist():
        vectors = item_encoder(**tensors.items(day * data.items + catalogue)).numpy()
        centre = centre_for(vectors, metric)
        vectors = torch.from_numpy(items_for(vectors, metric, centre))
        of_day = np.flatnonzero(days == day)
        for start in range(0, len(of_day), BLOCK):
            rows = of_day[start : start + BLOCK]
            asked = query_encoder(**tensors.users(states[rows])).numpy()
            products = (torch.from_numpy(queries_for(asked, metric, centre)) @ vectors.T).numpy()
            scores = scores_for(products, asked, metric, centre)
            scores[seen_mask(data, queries, rows)] = -np.inf
            yield rows, scores


def seen_mask(data: TrainingData, queries: Queries, rows: Ints) -> npt.NDArray[np.bool_]:
    """[m, I]: which items the users of some queries had met before the moment of the query."""
    mask = np.zeros((len(rows), data.items), np.bool_)
    for n, row in enumerate(rows.tolist()):
        mask[n, data.events.seen(int(queries.users[row]), int(queries.times[row]))] = True
    return mask


def best(scores: Floats, k: int) -> Candidates:
    """The k best items of each row, ties by the lower position.

    Args:
        scores: [m, I]; -inf for what can't be chosen.
        k: At least 1.
    """
    k = min(k, scores.shape[1])
    # Partition first: a full sort of large catalogues would take most of the time.
    threshold = np.partition(scores, -k, axis=1)[:, -k]
    items = np.full((len(scores), k), -1, np.int64)
    values = np.full((len(scores), k), -np.inf, np.float32)
    for n, (row, least) in enumerate(zip(scores, threshold, strict=True)):
        near = np.flatnonzero((row >= least) & (row > -np.inf))
        order = near[np.argsort(-row[near], kind="stable")][:k]
        items[n, : len(order)], values[n, : len(order)] = order, row[order]
    return Candidates(items, values)


def retrieve(
    encoders: Mapping[Role, nn.Module],
    tensors: ModelTensors,
    data: TrainingData,
    queries: Queries,
    k: int,
    metric: Metric = INNER_PRODUCT,
) -> Candidates:
    """The k items of the whole catalogue that each query scores best, without items seen before."""
    k = min(k, data.items)
    items = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for rows, block in score_catalogue(encoders, tensors, data, queries, metric):
        found = best(block, k)
        items[rows], scores[rows] = found.items, found.scores
    return Candidates(items, scores)


def is_liked(items: Ints, queries: Queries) -> npt.NDArray[np.bool_]:
    """[q, k]: whether each item is among the likes of its query; False for -1."""
    size = int(max(items.max(initial=0), queries.items.max(initial=0))) + 1
    liked = np.unique(queries.rows * size + queries.items)
    keys = np.arange(len(items))[:, None] * size + items
    found: npt.NDArray[np.bool_] = np.isin(keys, liked) & (items >= 0)
    return found


def recall(found: Candidates, queries: Queries) -> float:
    """Mean share of each query's likes that are among its candidates."""
    hits = is_liked(found.items, queries).sum(1)
    return float(np.mean(hits / np.diff(queries.offsets)))
