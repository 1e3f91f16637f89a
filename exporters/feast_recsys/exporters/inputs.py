"""How the inputs of a graph look to a torch module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side
from feast_recsys.bundle.vocabulary import Vocabulary

_TORCH = {DType.INT64: torch.int64, DType.FLOAT32: torch.float32, DType.BOOL: torch.bool}


def single_row(role: Role, spec: Input) -> bool:
    """Whether the input has batch size 1 at serving: all that a ranker takes except the candidates' features."""
    return role is Role.RANKER and spec.side is not Side.ITEM


def module_dtype(spec: Input) -> torch.dtype:
    """What the module takes: row numbers (int64) for an input with a vocabulary, else the raw value."""
    return torch.int64 if spec.vocabulary is not None else _TORCH[spec.dtype]


def to_torch(feed: Mapping[str, Array], graph: Graph, vocabularies: Mapping[str, Vocabulary]) -> dict[str, Tensor]:
    """Module inputs by name, in the order of the graph, from the raw values that the exported graph takes."""
    tensors = {}
    for spec in graph.inputs:
        values = feed[spec.name]
        if spec.vocabulary is not None:
            values = vocabularies[spec.vocabulary].encode(values)
        tensors[spec.name] = torch.from_numpy(values)
    return tensors


def shape_text(spec: Input) -> str:
    """The shape of an input as people read it."""
    return "[batch, length]" if spec.is_list else "[batch]"
