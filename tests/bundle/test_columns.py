"""A column holds what its Python values say, and keeps it through taking and concatenating."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.columns import Column, DType, FieldStatus

ELEMENTS = {
    DType.INT64: st.integers(-(2**63), 2**63 - 1),
    DType.FLOAT32: st.floats(width=32, allow_nan=False),
    DType.BOOL: st.booleans(),
    DType.STRING: st.text(max_size=5),
}


@st.composite
def column_items(draw, min_size=0):
    dtype = draw(st.sampled_from(list(DType)))
    is_list = draw(st.booleans())
    value = st.lists(ELEMENTS[dtype], max_size=4) if is_list else ELEMENTS[dtype]
    return dtype, is_list, draw(st.lists(st.none() | value, min_size=min_size, max_size=8))


@settings(deadline=None, max_examples=100)
@given(column_items())
def test_a_column_gives_back_its_python_values(case):
    dtype, is_list, items = case
    column = Column.of(dtype, items, is_list=is_list)
    assert column.to_list() == items
    assert len(column) == len(items)
    assert column.is_list is is_list
    assert column.values.dtype == dtype.numpy
    assert column.status.tolist() == [FieldStatus.NULL_VALUE if v is None else FieldStatus.PRESENT for v in items]


@settings(deadline=None, max_examples=100)
@given(column_items(min_size=1), st.data())
def test_take_picks_rows_in_the_given_order(case, data):
    dtype, is_list, items = case
    rows = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=12))
    stamps = np.arange(len(items), dtype=np.int64) + 100
    taken = Column.of(dtype, items, is_list=is_list, timestamps=stamps).take(np.array(rows, np.int64))
    assert taken.to_list() == [items[row] for row in rows]
    assert taken.timestamps.tolist() == [100 + row for row in rows]


@settings(deadline=None, max_examples=100)
@given(column_items(), st.integers(0, 8), st.integers(0, 8))
def test_concatenate_undoes_a_split(case, first, second):
    dtype, is_list, items = case
    cuts = [0, *sorted(min(cut, len(items)) for cut in (first, second)), len(items)]
    parts = [Column.of(dtype, items[a:b], is_list=is_list) for a, b in pairwise(cuts)]
    whole = Column.concatenate(parts)
    assert whole.to_list() == items
    assert whole.values.dtype == dtype.numpy


def test_scalar_nan_is_null_as_in_feasts_online_stores():
    column = Column.of(DType.FLOAT32, [1.5, float("nan"), np.float32("nan"), None])
    assert column.valid.tolist() == [True, False, False, False]
    assert column.values.tolist() == [1.5, 0.0, 0.0, 0.0]


def test_an_empty_list_is_a_value_and_null_is_none():
    column = Column.of(DType.INT64, [[], None, [3]], is_list=True)
    assert column.valid.tolist() == [True, False, True]
    assert column.to_list() == [[], None, [3]]


@pytest.mark.parametrize(
    ("dtype", "zero"), [(DType.INT64, 0), (DType.FLOAT32, 0.0), (DType.BOOL, False), (DType.STRING, "")]
)
def test_null_elements_of_a_list_become_the_zero_that_feast_stores_for_them(dtype, zero):
    assert Column.of(dtype, [[None, None]], is_list=True).to_list() == [[zero, zero]]


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("is_list", [False, True])
def test_an_absent_column_has_rows_without_values(dtype, is_list):
    column = Column.absent(dtype, 3, is_list=is_list)
    assert column.to_list() == [None, None, None]
    assert column.status.tolist() == [FieldStatus.NOT_FOUND] * 3
    assert column.timestamps.tolist() == [0, 0, 0]
    assert column.is_list is is_list
