"""Candidates for the users of a call: sources are asked for all of them at once, and merged for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.vectors import query_like
from feast_recsys.bundle.merging import NOTHING, Found, Merged, merge, plans
from feast_recsys.bundle.snapshot import UNKNOWN_ROW
from feast_recsys.server.call import Call
from feast_recsys.server.eligibility import without
from feast_recsys.server.sources import Alike, Listing, Nearest, Source
from feast_recsys.server.stage import Stage

# Users who have seen more than this are searched for one by one: what all are searched for at once is so much wider.
_DROPPED = 1000

# Scores of one exact search, about: 64 MiB.
_SCORES = 1 << 24


class Retrieval:
    """One retrieval for all users of a call, or for nobody.

    Args:
        call: The call; its users have been read.
        sources: Where candidates come from.
        k: Number of items wanted for each user.
        allow: Which items may come back to any of them; None for all.
        exclude_seen: Whether to leave out what each has seen.
        seeds: Rows of the items that all sources are to find likes of; None for those that each user did last.
    """

    def __init__(
        self,
        call: Call,
        sources: tuple[Source, ...],
        k: int,
        allow: Allowed | None,
        exclude_seen: bool,
        seeds: Rows | None = None,
    ) -> None:
        self._call, self._k, self._allow, self._seeds = call, k, allow, seeds
        self.sources = sources
        nothing = np.empty(0, np.int64)
        self._seen = [call.seen(user) if exclude_seen else nothing for user in range(max(call.users, 1))]
        self._vectors: dict[int, Vectors] = {}

    def candidates(self) -> list[Merged]:
        """The candidates of each user; their `sources` are positions in `self.sources`."""
        users = range(len(self._seen))
        if len(self.sources) == 1:
            self._encode([0])
            found = [Merged(f.rows, f.scores, np.zeros(len(f.rows), np.int64)) for f in self._ask(0, users)]
            self._call.stages.done("search")
            return found
        plans = self._plans()
        self._encode([at for at in range(len(self.sources)) if any(parts[at] for parts, _ in plans)])
        found_by = [[NOTHING] * len(self.sources) for _ in users]
        left = [list(fill) for _, fill in plans]  # who has not been asked for this user
        for at in range(len(self.sources)):
            self._collect(at, [user for user in users if plans[user][0][at]], found_by, left)
        merged = [merge(found_by[user], *plans[user], self._k) for user in users]
        while short := [user for user in users if len(merged[user]) < self._k and left[user]]:
            at = left[short[0]][0]
            served = [user for user in short if left[user][0] == at]
            self._collect(at, served, found_by, left)
            for user in served:
                merged[user] = merge(found_by[user], *plans[user], self._k)
        self._call.stages.done("search")
        return merged

    def lacks_direction(self, merged: Merged) -> bool:
        """Whether fewer than min(k, eligible) items came because what the seeds are like is not known."""
        seeds = self._seeds
        if seeds is None or not len(seeds) or len(merged) >= self._k:
            return False
        eligible = without(self._allow, np.concatenate([seeds, self._seen[0]]), len(self._call.snapshot))
        if eligible is None or len(merged) >= eligible.up_to(self._k):
            return False
        ways = [source.way for source in self.sources]
        return any(isinstance(way, Alike) and query_of(way, seeds) is None for way in ways)

    def _plans(self) -> list[tuple[list[int], list[int]]]:
        """For each user how many items each source is to give, and in which order sources fill up.

        The fallback takes the place of sources that look at the user where there is nothing to look at.
        """
        names, fallback = [source.name for source in self.sources], self._call.served.fallback
        common, other = plans(
            [source.quota for source in self.sources],
            [source.personal for source in self.sources],
            names.index(fallback) if fallback in names else None,
            self._k,
        )
        if fallback not in names:
            return [common] * len(self._seen)
        return [other if self._call.stranger(user) else common for user in range(len(self._seen))]

    def _collect(self, at: int, users: Sequence[int], found_by: list[list[Found]], left: list[list[int]]) -> None:
        if not users:
            return
        for user, found in zip(users, self._ask(at, users), strict=True):
            found_by[user][at] = found
            left[user].remove(at)

    def _encode(self, sources: Sequence[int]) -> None:
        """Runs the query encoders of some sources for all users, each once."""
        for at in sources:
            way = self.sources[at].way
            if isinstance(way, Nearest):
                self._queries(way.query)
        self._call.stages.done("encode")

    def _queries(self, query: Stage) -> Vectors:
        if id(query) not in self._vectors:
            self._vectors[id(query)] = self._call.encode(query)
        return self._vectors[id(query)]

    def _ask(self, at: int, users: Sequence[int]) -> list[Found]:
        """What one source has for some users."""
        source = self.sources[at]
        allow = self._call.state.filters.both(self._allow, source.only)
        seen = [self._seen[user] for user in users]
        if isinstance(source.way, Listing):
            return [source.way.best(self._k, allow, rows) for rows in seen]
        if isinstance(source.way, Nearest):
            queries = self._queries(source.way.query)
            chosen = queries if len(users) == len(queries) else queries[list(users)]
            return search_each(source.way.index, chosen, self._k, allow, seen)
        seeds = [self._last_items(source.way, user) for user in users]
        return like_each(source.way, seeds, self._k, allow, seen)

    def _last_items(self, way: Alike, user: int) -> Rows:
        """Rows of the last items of a user that the catalogue has, each once."""
        if self._seeds is not None:
            return self._seeds
        rows = self._call.history(way.history, user)
        rows = rows[rows != UNKNOWN_ROW]
        first = np.sort(np.unique(rows, return_index=True)[1])
        return np.asarray(rows[first][: way.seeds], np.int64)


def query_of(way: Alike, seeds: Rows) -> Vectors | None:
    """What is asked for items like some, [1, d]; None where nothing is known of what these are like."""
    return query_like(way.index.vectors_of(seeds), bias=way.bias, metric=way.metric)


def like_each(
    way: Alike, seeds: Sequence[Rows], k: int, allow: Allowed | None, leave_out: Sequence[Rows]
) -> list[Found]:
    """The k items most like each group of seeds, without these: nothing where there are none, or nothing is known of
    what they are like."""
    likes = [query_of(way, rows) for rows in seeds]
    queries = {at: query for at, query in enumerate(likes) if query is not None}
    found = [NOTHING] * len(seeds)
    if queries:
        dropped = [np.concatenate([seeds[at], leave_out[at]]) for at in queries]
        results = search_each(way.index, np.concatenate(list(queries.values())), k, allow, dropped)
        for at, result in zip(queries, results, strict=True):
            found[at] = result
    return found


def search_each(
    index: Index, queries: Vectors, k: int, allow: Allowed | None, leave_out: Sequence[Rows]
) -> list[Found]:
    """The k best items of each query.

    Several queries are searched at once for as many items more as one of them leaves out, which are dropped then.

    Args:
        index: The index.
        queries: [B, d].
        k: Number of items wanted.
        allow: Which items may come back; None for all.
        leave_out: By query, rows of items that must not; may repeat, and be UNKNOWN_ROW.
    """
    n = len(index)
    found = [NOTHING] * len(queries)
    many = [at for at, rows in enumerate(leave_out) if len(rows) <= _DROPPED] if len(queries) > 1 else []
    block = max(_SCORES // max(n, 1), 1)
    for start in range(0, len(many), block):
        part = many[start : start + block]
        width = k + max(len(leave_out[at]) for at in part)
        rows, scores = index.search(queries[part], width, allow)
        for at, row, score in zip(part, rows, scores, strict=True):
            kept = np.flatnonzero(~np.isin(row, leave_out[at]))[:k] if len(leave_out[at]) else slice(k)
            found[at] = Found(row[kept], score[kept])
    for at in set(range(len(queries))).difference(many):
        rows, scores = index.search(queries[at : at + 1], k, without(allow, leave_out[at], n))
        found[at] = Found(rows[0], scores[0])
    return found
