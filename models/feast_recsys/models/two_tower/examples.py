"""Where the batches of a two-tower come from: moments of Feast's training data, or histories alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Role
from feast_recsys.models.data.histories import Floats, Histories, Ints
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.tensors import ModelTensors
from feast_recsys.models.retrieval.scoring import score_catalogue
from feast_recsys.models.training.distributed import World
from feast_recsys.models.two_tower.negatives import top_negatives
from feast_recsys.models.two_tower.towers import ItemEncoder, QueryEncoder

BLOCK = 512  # users whose hard negatives are mined at once

Encoders = Mapping[Role, nn.Module]


class Batch(Protocol):
    """Q queries with P targets.

    Attributes:
        asked: [Q] number of each query in the source's `hardest`.
        owners: [P] which query of the batch each target belongs to.
        targets: [P] positions of the items that the queries should find.
    """

    @property
    def asked(self) -> Ints:
        """[Q]."""

    @property
    def owners(self) -> Ints:
        """[P]."""

    @property
    def targets(self) -> Ints:
        """[P]."""

    def queries(self, encoders: Encoders) -> Tensor:
        """[Q, w] vectors of the queries. What they are given never holds a target of theirs."""

    def vectors(self, encoders: Encoders, items: Ints, owners: Ints) -> Tensor:
        """[m, w] vectors of items, as they were at the moment of some queries.

        Args:
            encoders: Both.
            items: [m] positions.
            owners: [m] for which query of the batch each one is.
        """

    def share(self, world: World) -> Batch:
        """The part of one of several processes; all parts have equally many targets.

        Raises:
            InvalidSettings: batches of this kind can't be shared.
        """


class Source(Protocol):
    """What a two-tower learns from."""

    @property
    def counts(self) -> Ints:
        """[I] likes of each item of the catalogue that are learned from."""

    @property
    def batches(self) -> int:
        """Batches of an epoch, about."""

    def epoch(self, random: np.random.Generator) -> Iterator[Batch]:
        """Every like once, in an order of the epoch's own."""

    def hardest(self, encoders: Encoders, count: int, skip: int) -> Ints:
        """[queries, count] items that the encoders rank first among those that a query's user does not have.

        Args:
            encoders: In eval mode.
            count: How many.
            skip: The first so many are left out.

        Raises:
            InvalidArgument: some user has nearly all items, so that fewer are left.
        """


@dataclass(frozen=True)
class _MomentBatch:
    source: Moments
    asked: Ints
    owners: Ints
    targets: Ints
    days: Ints

    def queries(self, encoders: Encoders) -> Tensor:
        rows = self.source.states[self.asked]
        return _called(encoders[Role.QUERY_ENCODER], self.source.tensors.users(rows))

    def vectors(self, encoders: Encoders, items: Ints, owners: Ints) -> Tensor:
        rows = self.days[owners] * self.source.data.items + items
        return _called(encoders[Role.ITEM_ENCODER], self.source.tensors.items(rows))

    def share(self, world: World) -> Batch:
        if world.size == 1:
            return self
        asked, targets, days = (world.share(rows) for rows in (self.asked, self.targets, self.days))
        return _MomentBatch(self.source, asked, np.arange(len(asked)), targets, days)


@dataclass(frozen=True)
class Moments:
    """Likes at moments, each with the features as they were then.

    Attributes:
        data: Features of both sides.
        tensors: The encoders' inputs.
        asked: Queries with the likes of one moment each.
        batch: Likes in a batch.
        neighbourhood: See `TwoTowerConfig`.
    """

    data: TrainingData
    tensors: ModelTensors
    asked: Queries
    batch: int
    neighbourhood: int

    @cached_property
    def states(self) -> Ints:
        """[q] rows of the user inputs."""
        return self.data.states(self.asked)

    @property
    def counts(self) -> Ints:
        """See Source."""
        return np.bincount(self.asked.items, minlength=self.data.items)

    @property
    def batches(self) -> int:
        """See Source."""
        return max(len(self.asked.items) // self.batch, 1)

    def epoch(self, random: np.random.Generator) -> Iterator[Batch]:
        """See Source. Each like is a query of its own."""
        rows = self.asked.rows
        days = self.data.day_of(self.asked.times)[rows]
        order = np.argsort(np.argsort(self.asked.times[rows], kind="stable"))
        moved = np.argsort(order + random.uniform(0, self.neighbourhood, len(order)), kind="stable")
        parts = np.array_split(moved, self.batches)
        for n in random.permutation(len(parts)).tolist():
            part = parts[n]
            yield _MomentBatch(self, rows[part], np.arange(len(part)), self.asked.items[part], days[part])

    @torch.no_grad()
    def hardest(self, encoders: Encoders, count: int, skip: int) -> Ints:
        """See Source. All likes that a user is trained with are left out, and what was met before the moment."""
        result = np.zeros((len(self.asked), count), np.int64)
        liked = Histories.from_pairs(*self._likes(), self.data.items, size=len(self.data.events.user_ids))
        with on_cpu(encoders):
            for rows, scores in score_catalogue(encoders, self.tensors, self.data, self.asked):
                part = liked.take(self.asked.users[rows])
                scores[part.users, part.items] = -np.inf
                result[rows] = top_negatives(torch.from_numpy(scores), count, skip).numpy()
        return result

    def _likes(self) -> tuple[Ints, Ints]:
        keys = np.unique(self.asked.users[self.asked.rows] * self.data.items + self.asked.items)
        users, items = np.divmod(keys, self.data.items)
        return users, items


@dataclass(frozen=True)
class _HistoryBatch:
    source: Leftouts
    asked: Ints
    owners: Ints
    targets: Ints
    part: Histories  # of the users, all of what they have
    user: Ints  # [Q] row of `part`
    given: Tensor  # [len(part.items)] whether an item is in the history at all
    given_targets: Tensor  # [P]

    def queries(self, encoders: Encoders) -> Tensor:
        encoder = encoders[Role.QUERY_ENCODER]
        assert isinstance(encoder, QueryEncoder)
        # The mean of the others is the sum of all less one's own: a user's items are summed up once.
        user = torch.from_numpy(self.user)
        starts = np.searchsorted(self.owners, np.arange(len(self.asked)))
        sums, counts = _summed(encoder.items, self.part.items, self.part.offsets[:-1], self.given)
        own, own_counts = _summed(encoder.items, self.targets, starts, self.given_targets)
        user = user.to(sums.device)
        return encoder.of_sums(sums[user] - own, counts[user] - own_counts)

    def vectors(self, encoders: Encoders, items: Ints, owners: Ints) -> Tensor:
        encoder = encoders[Role.ITEM_ENCODER]
        assert isinstance(encoder, ItemEncoder)
        return _called(encoder, {encoder.item_id.name: torch.from_numpy(items + 1)})

    def share(self, world: World) -> Batch:
        if world.size > 1:
            raise InvalidSettings("histories without moments are trained on by one process; start one", field="world")
        return self


@dataclass(frozen=True)
class Leftouts:
    """Histories without moments: some of a user's items are asked for, given the others.

    The encoders take the history and the item's id, and nothing else. Rows of the item table are positions + 1.
    Histories are taken whole, whatever `history_length` says: without moments there are no latest items.

    Attributes:
        histories: Of all users.
        batch: Targets in a batch, about: the items of a user stay together.
        targets: Items that are asked for at once.
        dropout: Share of the others that is left out as well.
    """

    histories: Histories
    batch: int
    targets: int = 1
    dropout: float = 0.0

    @property
    def counts(self) -> Ints:
        """See Source."""
        return np.bincount(self.histories.items, minlength=self.histories.catalogue)

    @property
    def batches(self) -> int:
        """See Source."""
        return max(-(-len(self.histories.items) // self.batch), 1)

    def epoch(self, random: np.random.Generator) -> Iterator[Batch]:
        """See Source."""
        order = random.permutation(np.flatnonzero(self.histories.lengths))
        ends = np.cumsum(self.histories.lengths[order])
        cuts = np.flatnonzero(np.diff(ends // self.batch)) + 1
        for users in np.split(order, cuts):
            if len(users):
                yield self._batch(users, random)

    def _batch(self, users: Ints, random: np.random.Generator) -> Batch:
        part = self.histories.take(users)
        lengths, user = part.lengths, part.users
        shuffled = np.lexsort((random.random(len(user)), user))
        # Two groups at least, so that no history is empty but that of a user with one item.
        groups = np.minimum(np.maximum(-(-lengths // self.targets), 2), lengths)
        first = np.cumsum(groups) - groups
        place = np.arange(len(user)) - part.offsets[:-1][user]
        owner = first[user] + place % groups[user]
        ordered = np.argsort(owner, kind="stable")
        chosen = shuffled[ordered]
        given = torch.from_numpy(random.random(len(user)) >= self.dropout)
        of_query = np.repeat(np.arange(len(users)), groups)
        return _HistoryBatch(
            self, users[of_query], owner[ordered], part.items[chosen], part, of_query, given,
            given[torch.from_numpy(chosen)],
        )  # fmt: skip

    def hardest(self, encoders: Encoders, count: int, skip: int) -> Ints:
        """See Source. The query is a user's whole history."""
        scorer = TwoTowerScorer(encoders)
        result = np.zeros((len(self.histories), count), np.int64)
        for start in range(0, len(self.histories), BLOCK):
            users = np.arange(start, min(start + BLOCK, len(self.histories)))
            scores, part = scorer.score(self.histories, users), self.histories.take(users)
            scores[part.users, part.items] = -np.inf
            result[users] = top_negatives(torch.from_numpy(scores), count, skip).numpy()
        return result


@dataclass(frozen=True)
class TwoTowerScorer:
    """Encoders of histories and item ids that score the whole catalogue.

    Attributes:
        encoders: Both, in eval mode; see `towers.build_ids_two_tower`.
    """

    encoders: Encoders

    @torch.no_grad()
    def score(self, histories: Histories, chosen: Ints, /) -> Floats:
        """[m, n] float32: scores of all items for some users, given all that they have."""
        query, item = self.encoders[Role.QUERY_ENCODER], self.encoders[Role.ITEM_ENCODER]
        assert isinstance(query, QueryEncoder) and isinstance(item, ItemEncoder)
        part = histories.take(chosen)
        sums, counts = _summed(query.items, part.items, part.offsets[:-1])
        vectors = _called(item, {item.item_id.name: torch.arange(1, histories.catalogue + 1)})
        scores: Floats = (query.of_sums(sums, counts) @ vectors.T).cpu().numpy()
        return scores


@contextmanager
def on_cpu(encoders: Encoders) -> Iterator[None]:
    """Inside, the encoders are on the CPU, for what works there only; afterwards where they were."""
    modules = nn.ModuleList(encoders.values())
    device = next(modules.parameters()).device
    modules.to("cpu")
    yield
    modules.to(device)


def _summed(table: nn.Embedding, items: Ints, starts: Ints, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums of the vectors of bags of items [B, d], and [B] how many there are in each."""
    device = table.weight.device
    rows, offsets = torch.from_numpy(items + 1).to(device), torch.from_numpy(starts).to(device)
    counted = torch.ones(len(items)) if given is None else given.to(torch.float32)
    weights = counted.to(device)
    sums = functional.embedding_bag(rows, table.weight, offsets, mode="sum", per_sample_weights=weights)
    ends = torch.cat([counted.new_zeros(1), counted.cumsum(0)])
    bounds = torch.from_numpy(np.append(starts, len(items)))
    return sums, ends[bounds].diff().to(device)


def _called(encoder: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    device = next(encoder.parameters()).device
    result: Tensor = encoder(**{name: values.to(device) for name, values in inputs.items()})
    return result
