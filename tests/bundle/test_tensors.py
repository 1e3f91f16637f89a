"""The one place where null becomes a default: held against a few lines of plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.errors import InvalidSignature, MissingFeature
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.bundle.tensors import to_tensor, to_tensors

ELEMENTS = {
    DType.INT64: st.integers(-(2**63), 2**63 - 1),
    DType.FLOAT32: st.floats(width=32),
    DType.BOOL: st.booleans(),
    DType.STRING: st.sampled_from(["", "a", "b", "é"]),
}
CONVERSIONS = [(d, d) for d in DType] + [
    (DType.INT64, DType.FLOAT32),
    (DType.BOOL, DType.INT64),
    (DType.BOOL, DType.FLOAT32),
]


def defaults(dtype):
    return st.integers(-3, 3) if dtype is DType.FLOAT32 else ELEMENTS[dtype]


def spec(dtype, **rest) -> Input:
    rest = {"default": dtype.zero, "pad": dtype.zero, **rest}
    return Input("x", "view:x", Side.USER, dtype, vocabulary="x.json" if dtype is DType.STRING else None, **rest)


def convert(value, dtype):
    return value if dtype is DType.STRING else dtype.numpy.type(value).item()


def usable(value):
    return not (isinstance(value, float) and not math.isfinite(value))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_scalar_is_its_value_or_the_default(data):
    have, want = data.draw(st.sampled_from(CONVERSIONS))
    items = data.draw(st.lists(st.none() | ELEMENTS[have], max_size=6))
    default = data.draw(defaults(want))
    tensor = to_tensor(Column.of(have, items), spec(want, default=default))
    oracle = [convert(default if v is None or not usable(v) else v, want) for v in items]
    assert tensor.dtype == want.numpy
    assert tensor.shape == (len(items),)
    assert tensor.tolist() == oracle


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_list_keeps_its_first_values_and_is_padded(data):
    have, want = data.draw(st.sampled_from(CONVERSIONS))
    items = data.draw(st.lists(st.none() | st.lists(ELEMENTS[have], max_size=6), max_size=6))
    pad, longest = data.draw(defaults(want)), data.draw(st.integers(1, 5))
    tensor = to_tensor(Column.of(have, items, is_list=True), spec(want, max_length=longest, pad=pad))
    cut = [[v if usable(v) else pad for v in (row or [])[:longest]] for row in items]
    width = max([1, *map(len, cut)])
    oracle = [[convert(v, want) for v in row + [pad] * (width - len(row))] for row in cut]
    assert tensor.dtype == want.numpy
    assert tensor.shape == (len(items), width)
    assert tensor.tolist() == oracle


def test_a_value_that_may_not_be_used_becomes_the_default_whatever_its_status():
    status = np.array([FieldStatus.PRESENT, FieldStatus.OUTSIDE_MAX_AGE], np.uint8)
    column = Column(DType.INT64, np.array([5, 6]), status, np.array([True, False]), np.zeros(2, np.int64))
    assert to_tensor(column, spec(DType.INT64, default=9)).tolist() == [5, 9]


def test_an_expired_list_becomes_an_empty_one():
    column = Column.of(DType.INT64, [[1, 2], [3]], is_list=True)
    expired = Column(column.dtype, column.values, column.status, np.array([False, True]), column.timestamps,
                     column.offsets)  # fmt: skip
    assert to_tensor(expired, spec(DType.INT64, max_length=4, pad=-1)).tolist() == [[-1], [3]]


def test_the_column_stays_as_it_was():
    column = Column.of(DType.FLOAT32, [1.0, None])
    tensor = to_tensor(column, spec(DType.FLOAT32, default=7))
    tensor[:] = 0
    assert column.to_list() == [1.0, None]


@pytest.mark.parametrize(
    ("have", "want"), [p for p in [(a, b) for a in DType for b in DType] if p not in CONVERSIONS], ids=str
)
def test_a_conversion_with_loss_is_refused(have, want):
    with pytest.raises(InvalidSignature, match=r"view:x is \w+ in Feast .* declare the dtype that Feast has") as caught:
        to_tensor(Column.of(have, [None]), spec(want))
    assert caught.value.field == "x"


@pytest.mark.parametrize("is_list", [False, True])
def test_a_list_is_no_scalar(is_list):
    wanted = spec(DType.INT64, max_length=None if is_list else 3)
    with pytest.raises(InvalidSignature, match=r"view:x is a (list|scalar) but input 'x' declares a (list|scalar)"):
        to_tensor(Column.of(DType.INT64, [None], is_list=is_list), wanted)


@pytest.mark.parametrize(("is_list", "items"), [(False, [1, None]), (True, [[1], None])])
def test_a_required_input_without_a_value_is_an_error_that_names_feature_and_row(is_list, items):
    column = Column.of(DType.INT64, items, is_list=is_list)
    with pytest.raises(MissingFeature, match=r"view:x has no value in row 1") as caught:
        to_tensor(column, spec(DType.INT64, required=True, max_length=3 if is_list else None))
    assert caught.value.field == "view:x"


def test_a_required_list_may_be_empty():
    column = Column.of(DType.INT64, [[]], is_list=True)
    assert to_tensor(column, spec(DType.INT64, required=True, max_length=3)).tolist() == [[0]]


def test_tensors_come_by_input_name_from_columns_by_reference():
    age = Input("years", "profile:age", Side.USER, DType.INT64)
    item = Input("item_id", "entity:item_id", Side.ITEM, DType.INT64)
    columns = {
        "profile:age": Column.of(DType.INT64, [30]),
        "entity:item_id": Column.of(DType.INT64, [7]),
        "profile:other": Column.of(DType.STRING, ["unused"]),
    }
    tensors = to_tensors(columns, (age, item))
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"years": [30], "item_id": [7]}


def test_a_missing_column_names_feature_and_input():
    with pytest.raises(InvalidSignature, match=r"no values of view:x for input 'x'") as caught:
        to_tensors({}, (spec(DType.INT64),))
    assert caught.value.field == "x"
