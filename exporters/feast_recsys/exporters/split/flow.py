"""The cheapest cut through a directed graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Vertex = TypeVar("Vertex", bound=Hashable)
_NOTHING = 1e-9


class Flow(Generic[Vertex]):
    """A network with capacities, for the least cut between a source and a sink (Edmonds and Karp 1972)."""

    def __init__(self) -> None:
        self._room: dict[Vertex, dict[Vertex, float]] = {}

    def edge(self, start: Vertex, end: Vertex, capacity: float) -> None:
        """Adds capacity from one vertex to another."""
        forward = self._room.setdefault(start, {})
        forward[end] = forward.get(end, 0.0) + capacity
        self._room.setdefault(end, {}).setdefault(start, 0.0)

    def sink_side(self, source: Vertex, sink: Vertex) -> set[Vertex]:
        """The vertices that a least cut leaves with the sink; of several least cuts the one with the fewest.

        Raises:
            ValueError: only an infinite capacity parts the two.
        """
        while path := self._path(source, sink):
            amount = min(self._room[a][b] for a, b in path)
            if amount == float("inf"):
                raise ValueError("source and sink can't be parted")
            for a, b in path:
                self._room[a][b] -= amount
                self._room[b][a] += amount
        # Backwards from the sink: what can still send something there stays with it.
        found, open_ = {sink}, deque([sink])
        while open_:
            vertex = open_.popleft()
            for before in self._room.get(vertex, {}):
                if before not in found and self._room[before][vertex] > _NOTHING:
                    found.add(before)
                    open_.append(before)
        return found

    def _path(self, source: Vertex, sink: Vertex) -> list[tuple[Vertex, Vertex]]:
        before: dict[Vertex, Vertex] = {}
        open_ = deque([source])
        while open_:
            vertex = open_.popleft()
            for after, room in self._room.get(vertex, {}).items():
                if room > _NOTHING and after != source and after not in before:
                    before[after] = vertex
                    if after == sink:
                        path = [(vertex, after)]
                        while path[-1][0] != source:
                            path.append((before[path[-1][0]], path[-1][0]))
                        return path
                    open_.append(after)
        return []
