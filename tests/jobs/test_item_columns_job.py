"""The item part over a catalogue: every item, whatever the batches; what can't be kept is refused by item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.item_columns import open_item_columns
from feast_recsys.bundle.runtime import LoadedPart
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.bundle.split import Part, Passed
from feast_recsys.jobs.item_columns import KnownColumns, write_item_columns

PRICE = Input("price", "catalogue:price", Side.ITEM, DType.FLOAT32, default=9.0)
TAGS = Input("tags", "catalogue:tags", Side.ITEM, DType.INT64, max_length=3)
USER = Input("age", "profile:age", Side.USER, DType.INT64)
HALVED, TOTAL = Passed("halved", "float32", (1, None)), Passed("total", "int64", (None, 1))


def part(*nodes: onnx.NodeProto, outputs: tuple[Passed, ...] = (HALVED, TOTAL)) -> LoadedPart:
    """An item part that halves prices and sums tags, unless nodes say otherwise."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    body = helper.make_graph(
        nodes
        or (
            helper.make_node("Constant", [], ["two"], value_float=2.0),
            helper.make_node("Constant", [], ["first"], value_ints=[0]),
            helper.make_node("Constant", [], ["last"], value_ints=[1]),
            helper.make_node("Unsqueeze", ["price", "first"], ["row"]),
            helper.make_node("Div", ["row", "two"], ["halved"]),
            helper.make_node("ReduceSum", ["tags", "last"], ["total"], keepdims=1),
        ),
        "item",
        [
            helper.make_tensor_value_info("price", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("tags", TensorProto.INT64, ["N", "L"]),
        ],
        [helper.make_tensor_value_info(o.name, kinds[o.dtype], None) for o in outputs],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString())
    return LoadedPart(Part("ranker_item.onnx", "", ("price", "tags"), outputs), session)


def catalogue(n: int, prices: list[float | None] | None = None) -> dict[str, Column]:
    return {
        "catalogue:price": Column.of(DType.FLOAT32, prices or [None if i == 1 else i / 4 for i in range(n)]),
        "catalogue:tags": Column.of(DType.INT64, [list(range(i % 5)) for i in range(n)], is_list=True),
        "catalogue:other": Column.of(DType.INT64, [0] * n),
    }


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
@pytest.mark.parametrize("required", [False, True])
def test_every_item_is_kept_whatever_the_batches(tmp_path, batch, required):
    inputs = (USER, Input(**{**vars(PRICE), "required": required}), TAGS)
    seen = []
    width = write_item_columns(
        tmp_path / "kept", part(), inputs, catalogue(7), np.arange(7), batch=batch,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    halved, total = open_item_columns(tmp_path / "kept", (HALVED, TOTAL), 7)
    # A price that is missing has its default here, also where it is required: the call says so.
    np.testing.assert_array_equal(halved[:, 0], np.float32([0, 9, 0.5, 0.75, 1, 1.25, 1.5]) / 2)
    # Lists are cut to three.
    np.testing.assert_array_equal(total[:, 0], [0, 0, 1, 3, 3, 0, 0])
    assert width == 4 + 8
    assert seen[-1] == (7, 7)


@pytest.mark.parametrize("batch", [2, 100])
def test_what_is_known_is_taken_and_only_the_rest_computed(tmp_path, batch):
    write_item_columns(tmp_path / "then", part(), (PRICE, TAGS), catalogue(7), np.arange(7))
    then = open_item_columns(tmp_path / "then", (HALVED, TOTAL), 7)
    # Items 0, 2, 4 and 6 are taken over, in other places; 5 and 3 are computed.
    now = {name: column.take(np.array([5, 0, 2, 3, 4, 6])) for name, column in catalogue(7).items()}
    known = KnownColumns(then, np.array([-1, 0, 2, -1, 4, 6]))
    seen = []
    write_item_columns(
        tmp_path / "now", part(), (PRICE, TAGS), now, np.arange(6), known=known, batch=batch,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    write_item_columns(tmp_path / "whole", part(), (PRICE, TAGS), now, np.arange(6))
    for some, whole in zip(open_item_columns(tmp_path / "now", (HALVED, TOTAL), 6),
                           open_item_columns(tmp_path / "whole", (HALVED, TOTAL), 6), strict=True):  # fmt: skip
        np.testing.assert_array_equal(some, whole)
    assert seen == [(2, 2)]


def test_an_empty_catalogue_keeps_nothing(tmp_path: Path):
    write_item_columns(tmp_path / "kept", part(), (PRICE, TAGS), catalogue(0, []), np.arange(0))
    assert [len(c) for c in open_item_columns(tmp_path / "kept", (HALVED, TOTAL), 0)] == [0, 0]


def test_numbers_that_are_not_finite_are_refused_by_item(tmp_path):
    inverse = (
        helper.make_node("Reciprocal", ["price"], ["inverse"]),
        helper.make_node("Constant", [], ["last"], value_ints=[1]),
        helper.make_node("ReduceSum", ["tags", "last"], ["total"], keepdims=1),
    )
    kept = part(*inverse, outputs=(Passed("inverse", "float32", (None,)), TOTAL))
    ids = np.array(["a", "b", "c", "d"], object)
    with pytest.raises(JobFailed, match=r"not finite for items b, d; clamp"):
        write_item_columns(tmp_path / "kept", kept, (PRICE, TAGS), catalogue(4, [1.0, 0.0, 2.0, 0.0]), ids)


def test_a_part_that_gives_another_shape_than_it_promised_is_refused(tmp_path):
    wrong = part(outputs=(Passed("halved", "float32", (None, 1)), TOTAL))
    with pytest.raises(JobFailed, match=r"gave \[1, 4\] as halved for 4 items, its signature says \[None, 1\]"):
        write_item_columns(tmp_path / "kept", wrong, (PRICE, TAGS), catalogue(4), np.arange(4))


def test_a_part_that_fails_is_told_with_the_items(tmp_path):
    broken = part(
        helper.make_node("Constant", [], ["shape"], value_ints=[2, 2]),
        helper.make_node("Reshape", ["price", "shape"], ["square"]),
        outputs=(Passed("square", "float32", (None, 2)),),
    )
    with pytest.raises(JobFailed, match=r"ranker_item\.onnx failed on items 0 to 2"):
        write_item_columns(tmp_path / "kept", broken, (PRICE, TAGS), catalogue(3), np.arange(3))
