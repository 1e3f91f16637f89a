"""The three parts as models of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto
from onnx import helper as oh

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.split import Part, Passed, Split
from feast_recsys.exporters.split.cutting import Cut
from feast_recsys.exporters.split.net import Net, reads, renamed, value_info
from feast_recsys.exporters.split.shapes import Feed, Observed, fixed, session

HALF = "float16"
_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Parts:
    """A ranker as three models.

    Attributes:
        user, item: None if there is none.
        cross: Takes what the others give.
        from_user, from_item: What they give, in order.
        user_inputs, item_inputs, cross_inputs: Raw inputs of each, in the order of the ranker.
        count: Name of the cross part's input with the number of candidates; empty if it has none.
    """

    user: ModelProto | None
    item: ModelProto | None
    cross: ModelProto
    from_user: tuple[Passed, ...]
    from_item: tuple[Passed, ...]
    user_inputs: tuple[str, ...]
    item_inputs: tuple[str, ...]
    cross_inputs: tuple[str, ...]
    count: str

    def describe(self, stem: str, *, stackable: bool) -> tuple[Split, dict[str, bytes]]:
        """The entry of the signature, and the contents of the files by name."""
        files = dict[str, bytes]()

        def part(
            model: ModelProto | None, what: str, inputs: tuple[str, ...], outputs: tuple[Passed, ...]
        ) -> Part | None:
            if model is None:
                return None
            file = f"{stem}_{what}.onnx"
            files[file] = model.SerializeToString(deterministic=True)
            return Part(file, hashlib.sha256(files[file]).hexdigest(), inputs, outputs)

        cross = part(self.cross, "cross", self.cross_inputs, ())
        assert cross is not None
        user = part(self.user, "user", self.user_inputs, self.from_user)
        item = part(self.item, "item", self.item_inputs, self.from_item)
        return Split(user, item, cross, self.count, stackable), files


def build_parts(net: Net, cut: Cut, seen: Observed, *, half: bool = False, stacked: Sequence[int] = ()) -> Parts:
    """The parts of a net that is cut.

    Args:
        net: The graph.
        cut: Where.
        seen: Its tensors.
        half: Whether float32 tensors of the item part are handed over as float16.
        stacked: For each tensor of the user part the axis along which the cross part takes any number of rows instead
            of one; empty if it takes one row of each.

    Raises:
        onnx.checker.ValidationError: a part is no valid ONNX, which is a defect here.
    """
    taken = {*net.inputs}
    names = dict[str, str]()
    for stem, tensors in (("user", cut.from_user), ("item", cut.from_item)):
        for number, tensor in enumerate(tensors):
            name = f"{stem}_{number}"
            while name in taken:
                name += "_"
            taken.add(name)
            names[tensor] = name
    halved = {n for n in cut.from_item if half and seen.dtype(n) == np.float32}
    axes: Sequence[int | None] = stacked or [None] * len(cut.from_user)
    from_user = tuple(
        replace(_passed(seen, n, names[n], None), stack=axis) for n, axis in zip(cut.from_user, axes, strict=True)
    )
    from_item = tuple(_passed(seen, n, names[n], HALF if n in halved else None) for n in cut.from_item)
    item = _side(net, cut.item, cut.from_item, names, halved, from_item, "item", "candidates")
    user = _side(net, cut.user, cut.from_user, names, set(), from_user, "user", None)
    cross, count = _cross(net, cut, names, halved, from_user, from_item)
    return Parts(user[0], item[0], cross, from_user, from_item, user[1], item[1], cut.raw, count)


def _side(
    net: Net,
    nodes: Sequence[NodeProto],
    tensors: Sequence[str],
    names: Mapping[str, str],
    halved: set[str],
    passed: Sequence[Passed],
    part: str,
    axis: str | None,
) -> tuple[ModelProto | None, tuple[str, ...]]:
    """The user or the item part, and its raw inputs."""
    if not tensors:
        return None, ()
    made = {name for node in nodes for name in node.output}
    # What is handed over under its new name; a copy where it is a raw input, or is cast.
    copied = {n for n in tensors if n in halved or n not in made}
    own = {n: names[n] for n in tensors if n not in copied}
    body = [renamed(node, own) for node in nodes]
    for n in tensors:
        if n in halved:
            low, high = (net.constant(np.array(bound, np.float32)) for bound in (-_HALF_MAX, _HALF_MAX))
            inside = net.fresh(f"{names[n]}/inside")
            body.append(oh.make_node("Clip", [n, low, high], [inside]))
            body.append(oh.make_node("Cast", [inside], [names[n]], to=onnx.TensorProto.FLOAT16))
        elif n in copied:
            body.append(oh.make_node("Identity", [n], [names[n]]))
    used = {name for node in body for name in reads(node)}
    raw = tuple(n for n in net.inputs if n in used and n != net.count)
    if net.count in used:
        body.insert(0, oh.make_node("Shape", [raw[0]], [net.count], start=0, end=1))
    outputs = [_declared(p, axis) for p in passed]
    return _checked(net, body, [net.inputs[n] for n in raw], outputs, f"ranker_{part}"), raw


def _cross(
    net: Net,
    cut: Cut,
    names: Mapping[str, str],
    halved: set[str],
    from_user: Sequence[Passed],
    from_item: Sequence[Passed],
) -> tuple[ModelProto, str]:
    whole = {n: names[n] for n in names if n not in halved}
    casts = [oh.make_node("Cast", [names[n]], [n], to=onnx.TensorProto.FLOAT) for n in cut.from_item if n in halved]
    body = [*casts, *(renamed(node, whole) for node in cut.cross)]
    inputs = [*(_declared(p, None) for p in from_user), *(_declared(p, "candidates") for p in from_item)]
    for value, passed in zip(inputs, from_user, strict=False):
        if passed.stack is not None:
            value.type.tensor_type.shape.dim[passed.stack].dim_param = "rows"
    inputs += [net.inputs[n] for n in cut.raw]
    counts = any(net.count in reads(node) for node in cut.cross)
    if counts:
        inputs.append(net.inputs[net.count])
    return _checked(net, body, inputs, [net.output], "ranker_cross"), net.count if counts else ""


def _checked(
    net: Net, nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], name: str
) -> ModelProto:
    model = net.model(nodes, inputs, outputs, name)
    onnx.checker.check_model(model, full_check=True)
    return model


def _passed(seen: Observed, tensor: str, name: str, dtype: str | None) -> Passed:
    shape = tuple(dim[0] if fixed(dim) else None for dim in seen.shapes[tensor])
    return Passed(name, dtype or seen.dtype(tensor).name, shape)


def _declared(passed: Passed, axis: str | None) -> ValueInfoProto:
    shape = [size if size is not None else axis or f"{passed.name}_{n}" for n, size in enumerate(passed.shape)]
    return value_info(passed.name, passed.numpy, shape)


class RunningParts:
    """The parts, ready to run.

    Args:
        parts: The models.
        output: Name of the ranker's output.
    """

    def __init__(self, parts: Parts, output: str) -> None:
        self.parts = parts
        self._output = output
        self._user = session(parts.user) if parts.user is not None else None
        self._item = session(parts.item) if parts.item is not None else None
        self._cross = session(parts.cross)

    def user(self, feed: Feed) -> dict[str, Array]:
        """What the user part hands over."""
        return _run(self._user, self.parts.user_inputs, self.parts.from_user, feed)

    def item(self, feed: Feed) -> dict[str, Array]:
        """What the item part hands over."""
        return _run(self._item, self.parts.item_inputs, self.parts.from_item, feed)

    def cross(self, user: Feed, item: Feed, feed: Feed, count: int) -> Array:
        """The output, [count]."""
        given = {**user, **item, **{name: feed[name] for name in self.parts.cross_inputs}}
        if self.parts.count:
            given[self.parts.count] = np.array([count], np.int64)
        result: Array = self._cross.run([self._output], given)[0]
        return result

    def run(self, feed: Feed, count: int) -> Array:
        """The output for raw inputs, as the whole graph gives it."""
        return self.cross(self.user(feed), self.item(feed), feed, count)


def _run(part: object, inputs: Sequence[str], passed: Sequence[Passed], feed: Feed) -> dict[str, Array]:
    if part is None:
        return {}
    results = part.run([p.name for p in passed], {name: feed[name] for name in inputs})  # type: ignore[attr-defined]  # ONNX Runtime has no types
    return {p.name: result for p, result in zip(passed, results, strict=True)}
