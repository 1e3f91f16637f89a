"""What is allowed has one meaning in all its forms, however it was put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.index.allowed import Allowed, all_but


@st.composite
def cases(draw):
    """A base, lists of rows to leave out of it one after the other, and the set of rows that remains."""
    n = draw(st.integers(0, 3000))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    share = draw(st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]))
    mask = random.random(n) < share
    base = draw(st.booleans())
    sizes = draw(st.lists(st.integers(0, 2 * n), max_size=3)) if n else []
    lists = [random.integers(0, n, size) for size in sizes]
    expected = mask.copy() if base else np.ones(n, np.bool_)
    for rows in lists:
        expected[rows] = False
    allowed = Allowed(mask) if base else all_but(np.empty(0, np.int64), n)
    for rows in lists:
        allowed = allowed.without(rows)
    return allowed, expected


# Each form may be the first that is asked for, since one may be made of another.
FORMS = ["mask", "bits", "count", "rows", "blocked"]


@given(cases(), st.permutations(FORMS))
def test_every_form_is_that_of_the_mask(case, order):
    allowed, mask = case
    expected = {
        "mask": mask.tolist(),
        "bits": np.packbits(mask, bitorder="little").tolist(),
        "count": int(mask.sum()),
        "rows": np.flatnonzero(mask).tolist(),
        "blocked": np.flatnonzero(~mask).tolist(),
    }
    assert len(allowed) == len(mask)
    for form in order:
        assert np.asarray(getattr(allowed, form)).tolist() == expected[form]


@given(cases(), st.integers(1, 4000))
def test_bounds_hold_without_counting(case, k):
    allowed, mask = case
    assert allowed.up_to(k) == min(k, mask.sum())
    assert mask.sum() <= allowed.most <= len(mask)


@given(cases(), st.integers(1, 3))
def test_hidden_scores_are_those_of_the_other_rows(case, queries):
    allowed, mask = case
    scores = np.ones((queries, len(mask)), np.float32)
    allowed.hide(scores)
    assert scores.tolist() == np.where(mask, np.ones((queries, 1), np.float32), -np.inf).tolist()


@pytest.mark.parametrize("excluded", [1, 5, 50, 4000])
def test_bits_are_right_whether_mended_or_packed_anew(excluded):
    """Few excluded rows are cleared in the base's bits, many are packed with the rest."""
    random = np.random.default_rng(excluded)
    base = Allowed(random.random(8003) < 0.5)
    kept = base.bits.copy()
    less = base.without(random.integers(0, 8003, excluded))
    assert np.array_equal(less.bits, np.packbits(less.mask, bitorder="little"))
    assert np.array_equal(base.bits, kept)


def test_leaving_out_changes_nothing_that_others_hold():
    base = Allowed(np.ones(10, np.bool_))
    first = base.without(np.array([1]))
    assert first.without(np.array([2, 2])).rows.tolist() == [0, 3, 4, 5, 6, 7, 8, 9]
    assert first.rows.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert base.count == 10
