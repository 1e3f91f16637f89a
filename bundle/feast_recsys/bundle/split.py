"""A ranker in three parts: what depends on the user alone, on the item alone, and on both.

The user part runs once a request, the item part once a catalogue refresh, the cross part once a candidate. Tensors go
from the first two to the third by name; those of the item part are kept in the bundle as columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from feast_recsys.bundle.errors import InvalidSignature

DTYPES = ("float32", "float16", "int64", "bool")


@dataclass(frozen=True)
class Passed:
    """A tensor that the user part or the item part hands to the cross part.

    Attributes:
        name: Name of the output there and of the input of the cross part.
        dtype: NumPy name of its element type, one of DTYPES.
        shape: Its shape. Of the item part exactly one axis is None: that of the candidates. Of the user part None
            stands for an axis that depends on the length of a list.
        stack: Of the user part of a stackable split: the axis, of size 1, along which it is repeated for each of its
            user's candidates where several users share a run.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    stack: int | None = None

    @property
    def numpy(self) -> np.dtype[Any]:
        """The element type."""
        return np.dtype(self.dtype)

    @property
    def axis(self) -> int:
        """The axis of the candidates."""
        return self.shape.index(None)

    @property
    def width(self) -> int:
        """Elements of one candidate."""
        return math.prod(size for size in self.shape if size is not None)


@dataclass(frozen=True)
class Part:
    """One of the three graphs.

    Attributes:
        file: ONNX file, beside the ranker's.
        sha256: Its checksum.
        inputs: The ranker's inputs, by name, that it takes raw.
        outputs: What it hands to the cross part; empty for the cross part itself.
    """

    file: str
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[Passed, ...] = ()


@dataclass(frozen=True)
class Split:
    """A ranker, divided. Together the parts give what the whole graph gives.

    Attributes:
        user: Takes user and context inputs, batch 1; None if nothing depends on these alone.
        item: Takes item inputs that the catalogue holds, N rows; None if nothing depends on these alone.
        cross: Takes what the others hand over, the raw inputs it names, and the number of candidates.
        count: Name of the cross part's int64 [1] input with the number of candidates; empty if it has none.
        stackable: Whether candidates of several users may go through the cross part together. Tensors of the user part
            are then repeated, one by one, along their `stack` axis and concatenated there; those of items along their
            own axis of candidates, and raw inputs along their first.
    """

    user: Part | None
    item: Part | None
    cross: Part
    count: str = ""
    stackable: bool = False

    @property
    def hoisted(self) -> frozenset[str]:
        """Inputs that only the item part takes: the server needs no values of them for items of the catalogue."""
        return frozenset(self.item.inputs if self.item else ()) - frozenset(self.cross.inputs)


def to_dict(split: Split) -> dict[str, Any]:
    """Plain YAML types."""
    document: dict[str, Any] = {
        name: _part_to_dict(part)
        for name, part in (("user", split.user), ("item", split.item), ("cross", split.cross))
        if part is not None
    }
    if split.count:
        document["count"] = split.count
    return document | {"stackable": split.stackable}


def from_dict(document: Any, path: str) -> Split:
    """The inverse of `to_dict`.

    Raises:
        InvalidSignature: names the key that is wrong.
    """
    if not isinstance(document, dict) or not {"cross"} <= set(document) <= {
        "user",
        "item",
        "cross",
        "count",
        "stackable",
    }:
        raise InvalidSignature(f"{path} must hold cross, and may hold user, item, count and stackable", field=path)
    try:
        parts = {name: _part_from_dict(document[name]) for name in ("user", "item", "cross") if name in document}
        return Split(
            parts.get("user"),
            parts.get("item"),
            parts["cross"],
            str(document.get("count", "")),
            bool(document.get("stackable", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidSignature(f"{path} can't be read: {error}; export the model again", field=path) from error


def _part_to_dict(part: Part) -> dict[str, Any]:
    document: dict[str, Any] = {"file": part.file, "sha256": part.sha256, "inputs": list(part.inputs)}
    if part.outputs:
        document["outputs"] = [
            {"name": o.name, "dtype": o.dtype, "shape": list(o.shape)}
            | ({"stack": o.stack} if o.stack is not None else {})
            for o in part.outputs
        ]
    return document


def _part_from_dict(document: Mapping[str, Any]) -> Part:
    outputs = []
    for entry in document.get("outputs", ()):
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"dtype {entry['dtype']!r} of {entry['name']!r} is not one of {', '.join(DTYPES)}")
        shape = tuple(None if size is None else int(size) for size in entry["shape"])
        stack = None if entry.get("stack") is None else int(entry["stack"])
        if stack is not None and shape[stack] != 1:
            raise ValueError(f"{entry['name']!r} of shape {list(shape)} can't be repeated along axis {stack}")
        outputs.append(Passed(str(entry["name"]), str(entry["dtype"]), shape, stack))
    return Part(str(document["file"]), str(document["sha256"]), tuple(document["inputs"]), tuple(outputs))
