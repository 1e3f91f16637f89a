"""What int8 weights and float16 columns change, and that it is measured, written down, and bounded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.hand_made import HandMade
from support.rankers import VOCABULARIES, ZOO, Ranker

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, ParityFailed
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.split.ranker import split_ranker
from feast_recsys.exporters.split.relaxing import Options
from feast_recsys.exporters.split.shapes import session


@pytest.fixture(scope="module")
def cat_first() -> Ranker:
    return ZOO["cat first"]()


def test_nothing_is_given_up_by_default(cat_first: Ranker) -> None:
    plain = split_ranker(cat_first.model, cat_first.graph, VOCABULARIES, tolerance=1e-5)
    assert not {"cost", "quantize", "item_columns"} & set(plain.metadata)
    assert split_ranker(
        cat_first.model, cat_first.graph, VOCABULARIES, tolerance=1e-5, options=Options()
    ).files == plain.files  # fmt: skip


def test_float16_columns_take_half_the_bytes_and_hardly_change_anything(cat_first: Ranker) -> None:
    half = split_ranker(
        cat_first.model, cat_first.graph, VOCABULARIES, tolerance=1e-5, options=Options(item_columns="float16")
    )
    assert half.split is not None
    assert half.split.item is not None
    assert [(p.dtype, p.shape) for p in half.split.item.outputs] == [("float16", (None, 24))]
    assert half.metadata["item_columns_bytes"] == 48
    item, cross = (onnx.load_from_string(half.files[f"ranker_{part}.onnx"]) for part in ("item", "cross"))
    assert item.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert [v.type.tensor_type.elem_type for v in cross.graph.input if v.name == "item_0"] == [TensorProto.FLOAT16]
    cost = half.metadata["cost"]
    assert 0 < cost["mean"] <= cost["largest"] < 1e-3
    assert cost["discordant"] < 0.01
    assert cost["batch"] < 1e-6


def test_float16_columns_end_at_their_largest_number_not_in_infinity() -> None:
    price = Input("price", "product:price", Side.ITEM, DType.FLOAT32)
    made = HandMade(Input("who", "customer:number", Side.USER, DType.FLOAT32), price)
    column = made.node("Unsqueeze", ["price", made.ints(1)])
    wide = made.node("MatMul", [column, made.constant(np.full((1, 64), 1, np.float32))])
    hidden = made.node("MatMul", [made.node("Relu", [wide]), made.constant(np.full((64, 16), 1000, np.float32))])
    shown = made.node("ReduceMean", [made.node("Mul", [hidden, "who"]), made.ints(1)], keepdims=0)
    model, graph = made.end(made.node("Clip", [shown, made.constant(np.float32(-5)), made.constant(np.float32(5))]))
    result = split_ranker(model, graph, {}, tolerance=1e-5, options=Options(item_columns="float16"))
    assert result.split is not None
    item = session(onnx.load_from_string(result.files["ranker_item.onnx"]))
    (columns,) = item.run(None, {"price": np.array([1e9, -1e9], np.float32)})
    assert np.isfinite(columns).all()


def test_int8_weights_are_measured_and_depend_on_the_batch(cat_first: Ranker) -> None:
    made = split_ranker(
        cat_first.model, cat_first.graph, VOCABULARIES, tolerance=1e-5, options=Options(quantize="int8")
    )
    cross = onnx.load_from_string(made.files["ranker_cross.onnx"])
    assert cross.ir_version == 10
    weights = [t for t in cross.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2]
    assert (24, 12) in [tuple(t.dims) for t in weights]
    assert not any(node.op_type in ("MatMul", "Gemm") for node in cross.graph.node)
    item = onnx.load_from_string(made.files["ranker_item.onnx"])
    assert not any(t.data_type == TensorProto.INT8 for t in item.graph.initializer)
    cost = made.metadata["cost"]
    assert 1e-4 < cost["mean"] <= cost["largest"] < 0.1
    assert cost["batch"] > 1e-4
    assert 0 < cost["discordant"] < 0.2
    assert 0.5 < cost["top_overlap"] <= 1


def test_the_cost_is_that_of_the_files_as_written(cat_first: Ranker) -> None:
    """The mean over lists drawn anew is near the one written down."""
    made = split_ranker(
        cat_first.model, cat_first.graph, VOCABULARIES, tolerance=1e-5, options=Options("int8", "float16")
    )
    assert made.split is not None
    assert made.split.user is not None
    assert made.split.item is not None
    sampler, gaps = Sampler(cat_first.graph, VOCABULARIES, 77), []
    whole = session(cat_first.model)
    parts = {name: session(onnx.load_from_string(content)) for name, content in made.files.items()}
    for _ in range(20):
        feed = sampler.feed(200, 6)
        given = dict(feed)
        for part in (made.split.user, made.split.item):
            outputs = parts[part.file].run(None, {n: feed[n] for n in part.inputs})
            given |= {p.name: value for p, value in zip(part.outputs, outputs, strict=True)}
        cross = parts[made.split.cross.file]
        actual = cross.run(None, {n.name: given[n.name] for n in cross.get_inputs()})[0]
        gaps.append(np.abs(actual - whole.run(None, feed)[0]).mean())
    assert np.mean(gaps) == pytest.approx(made.metadata["cost"]["mean"], rel=0.5)


def test_weights_that_eight_bits_can_not_hold_are_refused() -> None:
    """One huge value, which no weight looks at, takes all the steps of the scale from the one that matters."""
    score = Input("score", "request:score", Side.ITEM, DType.FLOAT32)
    made = HandMade(
        Input("who", "customer:number", Side.USER, DType.FLOAT32),
        Input("what", "product:number", Side.ITEM, DType.INT64),
        score,
    )
    huge, small = (
        made.node("Unsqueeze", [name, made.ints(1)])
        for name in (
            made.node("Mul", ["score", made.constant(np.float32(1e6))]),
            made.node("Tanh", ["score"]),
        )
    )
    joint = made.node("Concat", [huge, small], axis=1)
    product = made.node("MatMul", [joint, made.constant(np.array([[0.0], [4.0]], np.float32))])
    rows = made.node(
        "Gather",
        [
            made.constant(np.linspace(-1, 1, 7, dtype=np.float32)),
            made.node("Mod", ["what", made.constant(np.array(7))]),
        ],
    )
    logits = made.node("Add", [made.node("Squeeze", [product, made.ints(1)]), rows])
    model, graph = made.end(logits)
    assert split_ranker(model, graph, {}, tolerance=1e-5).split is not None
    with pytest.raises(ParityFailed, match=r"without --quantize") as failed:
        split_ranker(model, graph, {}, tolerance=1e-5, options=Options(quantize="int8"))
    assert failed.value.field == "split"


@pytest.mark.parametrize(
    ("field", "options"), [("quantize", {"quantize": "int4"}), ("item_columns", {"item_columns": "half"})]
)
def test_other_options_are_refused(field: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=f"{field} is") as refused:
        Options(**options)
    assert refused.value.field == field
