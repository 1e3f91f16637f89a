"""Whatever is put side by side in whatever order and width: the divided graph gives what the whole graph gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from support.hand_made import HandMade

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.signature import Graph, Input, Side
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.split.ranker import split_ranker
from feast_recsys.exporters.split.shapes import session

INPUTS = (
    Input("who", "customer:number", Side.USER, DType.INT64),
    Input("what", "product:number", Side.ITEM, DType.INT64),
    Input("score", "request:score", Side.ITEM, DType.FLOAT32),
)
KINDS = ("user", "item", "request", "product", "difference", "both")
AFTER = ("nothing", "scale", "standardise", "relu", "lead", "square", "slice", "transposed")


@dataclass(frozen=True)
class Segment:
    """One thing in a concatenation."""

    kind: str
    width: int


@dataclass(frozen=True)
class Layout:
    """Segments side by side, some in a concatenation of their own; what is done to all; and the product."""

    segments: tuple[Segment, ...]
    nested: int
    after: str
    expand: bool
    gemm: bool

    @property
    def kinds(self) -> set[str]:
        """Of the columns that the product takes: a slice leaves out the first and the last."""
        columns = [segment.kind for segment in self.segments for _ in range(segment.width)]
        return set(columns[1:-1] if self.after == "slice" and len(columns) > 2 else columns)


SEGMENTS = st.builds(Segment, st.sampled_from(KINDS), st.integers(1, 9))
LAYOUTS = st.builds(
    Layout,
    st.lists(SEGMENTS, min_size=1, max_size=6).map(tuple),
    st.integers(0, 3),
    st.sampled_from(AFTER),
    st.booleans(),
    st.booleans(),
)


def build(layout: Layout, seed: int) -> tuple[ModelProto, Graph]:
    random, made = np.random.default_rng(seed), HandMade(*INPUTS)

    def weights(*shape: int) -> str:
        return made.constant(random.normal(size=shape).astype(np.float32))

    def row(name: str, width: int) -> str:
        index = made.node("Mod", [name, made.constant(np.array(7))])
        return made.node("Gather", [weights(7, width), index])

    count = made.node("Shape", ["what"], start=0, end=1)
    parts = []
    for segment in layout.segments:
        user, item, width = row("who", segment.width), row("what", segment.width), made.ints(segment.width)
        repeated = made.node("Expand", [user, made.node("Concat", [count, width], axis=0)])
        used = repeated if layout.expand else user
        score = made.node("Clip", ["score", made.constant(np.float32(-2)), made.constant(np.float32(2))])
        asked = made.node("Unsqueeze", [score, made.ints(1)])
        parts.append({
            "user": lambda repeated=repeated: repeated,
            "item": lambda item=item: item,
            "request": lambda asked=asked, n=segment.width: made.node("Mul", [asked, weights(n)]),
            "product": lambda used=used, item=item: made.node("Mul", [used, item]),
            "difference": lambda used=used, item=item: made.node("Sub", [item, used]),
            "both": lambda used=used, item=item: made.node("Tanh", [made.node("Add", [used, item])]),
        }[segment.kind]())  # fmt: skip
    if layout.nested:
        parts = [made.node("Concat", parts[: layout.nested], axis=-1), *parts[layout.nested :]]
    x, width = made.node("Concat", parts, axis=1), sum(s.width for s in layout.segments)
    if layout.after == "standardise":
        x = made.node("Div", [made.node("Sub", [x, weights(width)]), made.constant(np.full(width, 2, np.float32))])
    elif layout.after == "scale":
        x = made.node("Mul", [x, weights(width)])
    elif layout.after == "relu":
        x = made.node("Relu", [x])
    elif layout.after == "lead":
        x = made.node("Reshape", [x, made.ints(1, -1, width)])
    elif layout.after == "square":
        x = made.node("Mul", [x, x])
    elif layout.after == "slice" and width > 2:
        x, width = made.node("Slice", [x, made.ints(1), made.ints(-1), made.ints(1)]), width - 2
    elif layout.after == "transposed":
        x = made.node("Transpose", [made.node("Transpose", [x], perm=[1, 0])], perm=[1, 0])
    if layout.gemm and layout.after != "lead":
        hidden = made.node("Gemm", [x, weights(6, width), weights(6)], transB=1, alpha=0.5, beta=2.0)
    else:
        hidden = made.node("Add", [made.node("MatMul", [x, weights(width, 6)]), weights(6)])
    logits = made.node("MatMul", [made.node("Relu", [hidden]), weights(6, 1)])
    return made.end(made.node("Reshape", [logits, made.ints(-1)]))


def run(content: bytes, feed: dict[str, Array]) -> dict[str, Array]:
    opened = session(onnx.load_from_string(content))
    names = [node.name for node in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {n.name: feed[n.name] for n in opened.get_inputs()}), strict=True))


@settings(deadline=None, max_examples=60)
@given(layout=LAYOUTS, seed=st.integers(0, 100))
def test_any_layout_gives_what_the_whole_gives(layout: Layout, seed: int) -> None:
    model, graph = build(layout, seed)
    result = split_ranker(model, graph, {}, tolerance=1e-5)
    facts = result.metadata
    assert "dropped" not in facts
    if result.split is None:
        assert layout.kinds <= {"user", "request"}
        return
    assert facts["flops_per_candidate"]["served"] <= facts["flops_per_candidate"]["whole"]
    feed = Sampler(graph, {}, seed + 50).feed(9, 1)
    given = dict(feed) | {result.split.count or "unused": np.array([9])}
    for part in (result.split.user, result.split.item):
        given |= run(result.files[part.file], feed) if part is not None else {}
    actual = run(result.files[result.split.cross.file], given)["probability"]
    np.testing.assert_allclose(actual, run(model.SerializeToString(), feed)["probability"], atol=1e-5)


@pytest.mark.parametrize("after", ["scale", "standardise", "relu"])
def test_what_is_done_to_a_concatenation_costs_candidates_nothing(after: str) -> None:
    layout = Layout((Segment("user", 9), Segment("item", 9)), 0, after, expand=True, gemm=False)
    plain = split_ranker(*build(replace(layout, after="nothing"), 0), {}, tolerance=1e-5)
    result = split_ranker(*build(layout, 0), {}, tolerance=1e-5)
    assert result.metadata["flops_per_candidate"]["served"] == plain.metadata["flops_per_candidate"]["served"]
