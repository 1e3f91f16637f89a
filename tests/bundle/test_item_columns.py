"""What an item part gave, kept as matrices: the way there and back changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.item_columns import create_item_columns, from_rows, open_item_columns, to_rows
from feast_recsys.bundle.split import Passed

SIZES = st.integers(1, 4)


@given(before=st.lists(SIZES, max_size=2), after=st.lists(SIZES, max_size=2), data=st.data())
def test_rows_come_back_in_the_shape_of_the_tensor(before, after, data):
    passed = Passed("t", "float32", (*before, None, *after))
    n = data.draw(st.integers(1, 6))
    tensor = np.random.default_rng(0).random((*before, n, *after), np.float32)
    column = to_rows(tensor, passed)
    assert column.shape == (n, passed.width)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=8)), np.int64)
    expected = np.take(tensor, rows, axis=passed.axis)
    np.testing.assert_array_equal(from_rows(column, rows, passed), expected)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_columns_are_kept_by_place_in_their_own_type(tmp_path, n):
    outputs = [Passed("a", "float16", (None, 3)), Passed("b", "int64", (1, None)), Passed("c", "bool", (None,))]
    written = create_item_columns(tmp_path / "kept", outputs, n)
    for place, column in enumerate(written):
        column[:] = place
        if n:
            column.flush()
    opened = open_item_columns(tmp_path / "kept", outputs, n)
    assert [c.dtype.name for c in opened] == ["float16", "int64", "bool"]
    assert [c.shape for c in opened] == [(n, 3), (n, 1), (n, 1)]
    for before, after in zip(written, opened, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_file_that_is_missing_cut_or_of_another_shape_is_named(tmp_path):
    outputs = [Passed("a", "float32", (None, 3))]
    create_item_columns(tmp_path / "kept", outputs, 4)
    with pytest.raises(CorruptArtifact, match=r"0\.npy holds \[4, 3\] float32, the ranker takes \[5, 3\]"):
        open_item_columns(tmp_path / "kept", outputs, 5)
    with pytest.raises(CorruptArtifact, match=r"1\.npy can't be read"):
        open_item_columns(tmp_path / "kept", outputs * 2, 4)
    (tmp_path / "kept/0.npy").write_bytes(b"short")
    with pytest.raises(CorruptArtifact, match=r"0\.npy can't be read"):
        open_item_columns(tmp_path / "kept", outputs, 4)
