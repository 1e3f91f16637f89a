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


@given(seed=st.integers(0, 99), few=st.sampled_from([1, 50]), many=st.sampled_from([60, 5_000]))
def test_rows_of_large_catalogues_are_told_apart(seed, few, many):
    """Among many exclusions some look like a row that is not excluded: their last digits are the same."""
    random, n = np.random.default_rng(seed), 1_000_000
    found = random.choice(n, few, replace=False)
    alike = (found[:, None] + (1 << np.arange(14, 19))).ravel() % n
    gone = np.concatenate([alike, found[::3], random.integers(0, n, many)])
    np.testing.assert_array_equal(Marks().left(found, gone, n), ~np.isin(found, gone))
