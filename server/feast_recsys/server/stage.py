"""A graph with its inputs by side."""

from __future__ import annotations

from dataclasses import dataclass

from feast_recsys.bundle.runtime import LoadedGraph
from feast_recsys.bundle.signature import Input, Side


@dataclass(frozen=True)
class Stage:
    """A graph with its inputs by side; context inputs count as the user's."""

    graph: LoadedGraph
    user_inputs: tuple[Input, ...]
    item_inputs: tuple[Input, ...] = ()

    @classmethod
    def of(cls, graph: LoadedGraph) -> Stage:
        """Sorts a graph's inputs."""
        inputs = graph.graph.inputs
        return cls(
            graph,
            tuple(i for i in inputs if i.side is not Side.ITEM),
            tuple(i for i in inputs if i.side is Side.ITEM),
        )
