"""Which of some rows a request leaves out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.index.marks import Marks

N = 40
ROWS = st.lists(st.integers(0, N - 1), unique=True, max_size=N)


@given(rows=ROWS, missing=st.integers(0, 3), excluded=st.lists(st.integers(0, N - 1), max_size=80))
def test_what_is_left_is_neither_excluded_nor_missing(rows, missing, excluded):
    """Few rows among many exclusions are looked for the other way round, with the same answer; nothing stays marked."""
    marks = Marks()
    found, gone = np.array([*rows, *[-1] * missing], np.int64), np.array(excluded, np.int64)
    for _ in range(2):
        left = marks.left(found, gone, N)
        np.testing.assert_array_equal(left, ~np.isin(found, gone) & (found >= 0))
