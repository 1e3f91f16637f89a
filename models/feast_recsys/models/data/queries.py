"""Moments at which a user asks, and what they came to like afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feast_recsys.models.data.events import Events, Ints, Part


@dataclass(frozen=True)
class Queries:
    """q moments of users.

    Attributes:
        users: [q] positions in `Events.user_ids`.
        times: [q] unix seconds. Features are those of a second before.
        items: [offsets[-1]] the liked items of each query, positions in `Events.item_ids`.
        offsets: [q + 1] row boundaries in `items`.
    """

    users: Ints
    times: Ints
    items: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.users)

    @property
    def rows(self) -> Ints:
        """[offsets[-1]] the query that each liked item belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, chosen: Ints) -> Queries:
        """The given queries, in that order."""
        liked = [self.items[self.offsets[q] : self.offsets[q + 1]] for q in chosen.tolist()]
        return _queries(self.users[chosen], self.times[chosen], liked)


def held_out_queries(events: Events, part: Part) -> Queries:
    """One query a user, at the first event of a part; its likes are those of the part, without items seen before.

    Users without such a like are left out.
    """
    users, times, liked = [], [], []
    for user in range(len(events.user_ids)):
        rows = np.arange(events.starts[user], events.starts[user + 1])
        rows = rows[events.parts[rows] == part]
        if not len(rows):
            continue
        time = int(events.times[rows[0]])
        fresh = np.setdiff1d(events.items[rows[events.positive[rows]]], events.seen(user, time))
        if len(fresh):
            users.append(user)
            times.append(time)
            liked.append(fresh)
    return _queries(users, times, liked)


def next_item_queries(events: Events, until: Part = Part.TRAIN) -> Queries:
    """Every moment up to the end of a part at which a user liked something, with what they liked at that moment."""
    rows = np.flatnonzero((events.parts <= until) & events.positive)
    users, times = events.users[rows], events.times[rows]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    offsets = np.append(np.flatnonzero(first), len(rows)).astype(np.int64)
    return Queries(users[first], times[first], events.items[rows], offsets)


def horizon_queries(events: Events, stride: int, horizon: int, until: Part = Part.TRAIN) -> Queries:
    """Moments up to the end of a part, about `stride` events of a user apart, with likes of the next `horizon` events.

    This is what the held-out queries look like, so the ranker learns the task that it is judged by. Nothing of
    later parts is used.
    """
    users, times, liked = [], [], []
    for user in range(len(events.user_ids)):
        rows = np.arange(events.starts[user], events.starts[user + 1])
        rows = rows[events.parts[rows] <= until]
        moments = events.times[rows]
        begin = 0
        while begin < len(rows):
            end = _whole_moment(moments, begin + horizon)
            ahead = rows[begin:end]
            fresh = np.setdiff1d(events.items[ahead[events.positive[ahead]]], events.items[rows[:begin]])
            if len(fresh):
                users.append(user)
                times.append(int(moments[begin]))
                liked.append(fresh)
            begin = _whole_moment(moments, begin + stride)
    return _queries(users, times, liked)


def _whole_moment(moments: Ints, end: int) -> int:
    """The smallest number at or above `end` that does not tear a moment apart; all events at most."""
    if end >= len(moments):
        return len(moments)
    return int(np.searchsorted(moments, moments[end - 1], side="right"))


def _queries(users: list[int] | Ints, times: list[int] | Ints, liked: list[Ints]) -> Queries:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in liked])]).astype(np.int64)
    items = np.concatenate([np.empty(0, np.int64), *liked])
    return Queries(np.asarray(users, np.int64), np.asarray(times, np.int64), items, offsets)
