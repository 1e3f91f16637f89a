"""Graphs of other tools than torch, with what makes dividing hard: shapes, branches, batches that mix, odd types."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx import helper as oh
from support.hand_made import HandMade

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.split.flow import Flow
from feast_recsys.exporters.split.ranker import SplitResult, split_ranker
from feast_recsys.exporters.split.shapes import session

WHO = Input("who", "customer:number", Side.USER, DType.FLOAT32, default=1.0)
AGES = Input("ages", "customer:ages", Side.USER, DType.FLOAT32, 5, pad=0.0, default=0.0)
WHAT = Input("what", "product:number", Side.ITEM, DType.FLOAT32, default=1.0)
SIZES = Input("sizes", "product:sizes", Side.ITEM, DType.FLOAT32, 4, pad=0.0, default=0.0)
SCORE = Input("score", "request:score", Side.ITEM, DType.FLOAT32)


def weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tame(made: HandMade, name: str) -> str:
    """A number between -1 and 1."""
    return made.node("Tanh", [made.node("Div", [name, made.constant(np.float32(100))])])


def run(content: bytes, feed: dict[str, Array]) -> dict[str, Array]:
    opened = session(onnx.load_from_string(content))
    names = [node.name for node in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {n.name: feed[n.name] for n in opened.get_inputs()}), strict=True))


def split_and_compare(made: HandMade, logits: str) -> SplitResult:
    """Divides the graph; its parts and the whole agree on values that the proof has not seen."""
    model, graph = made.end(logits)
    result = split_ranker(model, graph, {}, tolerance=1e-5)
    if result.split is not None:
        for rows in (1, 6):
            feed = Sampler(graph, {}, 99).feed(rows, 3)
            given = feed | {result.split.count or "unused": np.array([rows])}
            for part in (result.split.user, result.split.item):
                given |= run(result.files[part.file], feed) if part is not None else {}
            actual = run(result.files[result.split.cross.file], given)["probability"]
            np.testing.assert_allclose(actual, run(model.SerializeToString(), feed)["probability"], atol=1e-5)
    return result


def hidden_item(made: HandMade, width: int = 16) -> str:
    """[N, width] of the item alone."""
    column = made.node("Unsqueeze", [tame(made, "what"), made.ints(1)])
    return made.node("Relu", [made.node("MatMul", [column, made.constant(weights(1, width))])])


def test_the_number_of_candidates_comes_from_the_call_not_from_an_item() -> None:
    """`Shape` of an item's input, then `Gather(0)`, as old exporters write it."""
    made = HandMade(WHO, WHAT)
    count = made.node("Gather", [made.node("Shape", ["what"]), made.constant(np.array(0))])
    shape = made.node("Concat", [made.node("Unsqueeze", [count, made.ints(0)]), made.ints(16)], axis=0)
    user = made.node("Unsqueeze", [tame(made, "who"), made.ints(1)])
    user = made.node("Expand", [made.node("MatMul", [user, made.constant(weights(1, 16, seed=1))]), shape])
    ramp = made.node("CumSum", [user, made.constant(np.array(1))])  # can't be done to what is not repeated
    both = made.node("Mul", [made.node("Mul", [hidden_item(made), user]), ramp])
    result = split_and_compare(made, made.node("ReduceSum", [both, made.ints(1)], keepdims=0))
    assert result.split is not None
    assert result.split.count == "count"
    assert result.split.cross.inputs == ()
    assert result.split.hoisted == {"what"}


def test_an_input_named_as_the_count_keeps_its_name() -> None:
    made = HandMade(WHO, dataclasses.replace(WHAT, name="count"))
    column = made.node("Unsqueeze", [tame(made, "count"), made.ints(1)])
    shape = made.node("Concat", [made.node("Shape", ["count"]), made.ints(4)], axis=0)
    repeated = made.node("Expand", [tame(made, "who"), shape])
    sums = made.node("CumSum", [repeated, made.constant(np.array(1))])
    both = made.node("Mul", [made.node("MatMul", [column, made.constant(weights(1, 4))]), sums])
    result = split_and_compare(made, made.node("ReduceSum", [both, made.ints(1)], keepdims=0))
    assert result.split is not None
    assert result.split.count == "count_1"
    assert result.split.hoisted == {"count"}


def test_a_branch_is_one_unit_with_what_it_captures() -> None:
    """An `If` on the user that reads the item's tensor from inside."""
    made = HandMade(WHO, WHAT)
    hidden = hidden_item(made)
    condition = made.node("Greater", ["who", made.constant(np.float32(0))])
    value = oh.make_tensor_value_info("out", TensorProto.FLOAT, None)
    branches = {
        name: oh.make_graph([oh.make_node(kind, [hidden], ["out"])], name, [], [value])
        for name, kind in (("then_branch", "Neg"), ("else_branch", "Identity"))
    }
    chosen = made.node("If", [condition], **branches)
    result = split_and_compare(made, made.node("ReduceSum", [chosen, made.ints(1)], keepdims=0))
    assert result.split is not None
    assert result.split.item is not None
    assert [p.shape for p in result.split.item.outputs] == [(None, 16)]
    assert result.split.hoisted == {"what"}


def test_what_mixes_items_is_not_kept_with_them() -> None:
    """The best of the batch is subtracted: only what comes before it belongs to an item."""
    made = HandMade(WHO, WHAT)
    strength = made.node("ReduceSum", [hidden_item(made), made.ints(1)], keepdims=0)
    best = made.node("ReduceMax", [strength, made.ints(0)], keepdims=1)
    relative = made.node("Sub", [strength, best])
    result = split_and_compare(made, made.node("Add", [made.node("Exp", [relative]), tame(made, "who")]))
    assert result.split is not None
    assert result.split.item is not None
    assert [p.shape for p in result.split.item.outputs] == [(None,)]
    cross = onnx.load_from_string(result.files["ranker_cross.onnx"])
    assert [n.op_type for n in cross.graph.node][:1] == ["ReduceMax"]


def test_lists_whose_padding_counts_are_not_padded_any_further() -> None:
    """A mean over the padded list changes with the padding, so that no column can hold it."""
    made = HandMade(WHO, WHAT, SIZES)
    mean = made.node("ReduceMean", [tame(made, "sizes"), made.ints(1)], keepdims=0)
    strength = made.node("ReduceSum", [hidden_item(made), made.ints(1)], keepdims=0)
    logits = made.node("Add", [made.node("Mul", [mean, strength]), tame(made, "who")])
    model, graph = made.end(logits)
    result = split_ranker(model, graph, {}, tolerance=1e-5)
    assert result.split is not None
    assert result.split.cross.inputs == ("sizes",)
    assert result.split.hoisted == {"what"}
    assert len(result.metadata["dropped"]) > 0
    assert "sizes" in result.metadata["dropped"][0]


def test_lists_of_items_become_columns_of_one_shape() -> None:
    made = HandMade(AGES, SIZES)
    total = made.node("ReduceSum", [tame(made, "sizes"), made.ints(1)], keepdims=1)
    ages = made.node("ReduceSum", [tame(made, "ages"), made.ints(1)], keepdims=1)
    logits = made.node("Squeeze", [made.node("Mul", [total, ages]), made.ints(1)])
    result = split_and_compare(made, logits)
    assert result.split is not None
    assert result.split.item is not None
    assert [p.shape for p in result.split.item.outputs] == [(None, 1)]
    assert result.split.hoisted == {"sizes"}


def test_types_that_no_column_holds_are_computed_with_the_candidate() -> None:
    made = HandMade(WHO, WHAT)
    strength = made.node("ReduceSum", [hidden_item(made), made.ints(1)], keepdims=0)
    double = made.node("Cast", [strength], to=TensorProto.DOUBLE)
    who = made.node("Cast", [tame(made, "who")], to=TensorProto.DOUBLE)
    logits = made.node("Cast", [made.node("Mul", [double, who])], to=TensorProto.FLOAT)
    result = split_and_compare(made, logits)
    assert result.split is not None
    assert result.split.item is not None
    assert [(p.dtype, p.shape) for p in result.split.item.outputs] == [("float32", (None,))]


@pytest.mark.parametrize("changed", [{"fresh": True}, {"feature": "request:number"}])
def test_what_is_known_at_the_call_only_is_no_column(changed: dict[str, object]) -> None:
    made = HandMade(WHO, dataclasses.replace(WHAT, **changed))  # type: ignore[arg-type]  # by the test's own parameters
    strength = made.node("ReduceSum", [hidden_item(made), made.ints(1)], keepdims=0)
    result = split_and_compare(made, made.node("Mul", [strength, tame(made, "who")]))
    assert result.split is None
    assert result.metadata["hoisted"] is False


def test_only_the_cross_part_takes_a_raw_value_that_costs_nothing_to_use() -> None:
    made = HandMade(WHO, WHAT, SCORE)
    strength = made.node("ReduceSum", [hidden_item(made), made.ints(1)], keepdims=0)
    logits = made.node("Mul", [made.node("Add", [strength, tame(made, "score")]), tame(made, "who")])
    result = split_and_compare(made, logits)
    assert result.split is not None
    assert result.split.cross.inputs == ("score",)
    assert result.split.stackable


def test_functions_of_the_model_itself_are_written_out() -> None:
    made = HandMade(WHO, WHAT)
    strength = made.node("ReduceSum", [hidden_item(made), made.ints(1)], keepdims=0)
    model, graph = made.end(made.node("Mul", [strength, tame(made, "who")]))
    last = model.graph.node[-1]
    opset = [oh.make_opsetid("", 18)]
    body = [oh.make_node("Sigmoid", ["x"], ["y"])]
    model.functions.append(oh.make_function("own", "Squash", ["x"], ["y"], body, opset))
    last.op_type, last.domain = "Squash", "own"
    model.opset_import.append(oh.make_opsetid("own", 1))
    result = split_ranker(model, graph, {}, tolerance=1e-5)
    assert result.split is not None
    cross = onnx.load_from_string(result.files["ranker_cross.onnx"])
    assert [node.op_type for node in cross.graph.node] == ["Mul", "Sigmoid"]
    assert [o.domain for o in cross.opset_import] == [""]


def test_a_graph_of_an_old_opset_is_served_whole_and_says_why() -> None:
    made = HandMade(WHO, WHAT)
    model, graph = made.end(made.node("Mul", [tame(made, "what"), tame(made, "who")]))
    model.opset_import[0].version = 13
    result = split_ranker(model, graph, {}, tolerance=1e-5)
    assert result.split is None
    assert result.metadata == {"hoisted": False, "why": "the graph is of opset 13; convert it to 18"}


def test_operations_are_counted_as_by_hand() -> None:
    """Linear(3, 8) over one value of each side, ReLU, Linear(8, 1): what is left is stated line by line."""
    made = HandMade(WHO, WHAT, SCORE)
    shape = made.node("Concat", [made.node("Shape", ["what"]), made.ints(1)], axis=0)
    user = made.node("Expand", [made.node("Unsqueeze", ["who", made.ints(1)]), shape])
    columns = [made.node("Unsqueeze", [name, made.ints(1)]) for name in ("what", "score")]
    x = made.node("Tanh", [made.node("Concat", [user, *columns], axis=1)])
    hidden = made.node("Gemm", [x, made.constant(weights(3, 8)), made.constant(weights(8, seed=1))])
    logits = made.node("MatMul", [made.node("Relu", [hidden]), made.constant(weights(8, 1, seed=2))])
    result = split_and_compare(made, made.node("Squeeze", [logits, made.ints(1)]))
    tanh, gemm, relu, last, sigmoid = 3, 2 * 3 * 8 + 8, 8, 2 * 8, 1
    assert result.metadata["flops_per_candidate"]["whole"] == tanh + gemm + relu + last + sigmoid
    # One value of the item is not worth eight that are kept: both go through one product, the user's share is added.
    left = {"tanh": 1, "product": 2 * 2 * 8, "add the user": 8}
    assert result.metadata["flops_per_candidate"]["served"] == sum(left.values()) + relu + last + sigmoid
    assert result.metadata["item_columns_bytes"] == 4
    assert result.metadata["lookups_per_candidate"] == {"whole": 0, "served": 0}


@settings(deadline=None, max_examples=200)
@given(
    edges=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=14),
)
def test_a_cut_is_the_cheapest_of_all(edges: list[tuple[int, int, int]]) -> None:
    flow, (source, sink) = Flow[int](), (0, 5)
    for start, end, capacity in edges:
        flow.edge(start, end, capacity)

    def cost(sink_side: set[int]) -> int:
        return sum(c for a, b, c in edges if a not in sink_side and b in sink_side)

    found = flow.sink_side(source, sink)
    assert sink in found
    assert source not in found
    subsets = [{sink, *(n for n in range(1, 5) if number >> n & 1)} for number in range(0, 32, 2)]
    assert cost(found) == min(map(cost, subsets))
    assert len(found) == min(len(s) for s in subsets if cost(s) == cost(found))
