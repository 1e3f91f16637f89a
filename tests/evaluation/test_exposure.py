"""Coverage, Gini and Lorenz curve of what is shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.exposure import coverage, exposures, gini, lorenz

LISTS = np.array([[0, 1, 2], [0, 2, -1], [0, -1, -1]])


def test_exposure_counts_the_lists_that_hold_an_item():
    assert exposures(LISTS, 5, 1).tolist() == [3, 0, 0, 0, 0]
    assert exposures(LISTS, 5, 3).tolist() == [3, 1, 2, 0, 0]
    assert coverage(exposures(LISTS, 5, 3)) == 3 / 5
    with pytest.raises(InvalidArgument, match="beyond the catalogue"):
        exposures(LISTS, 2, 3)
    with pytest.raises(InvalidArgument, match="k must lie"):
        exposures(LISTS, 5, 4)


def test_gini_at_both_ends_and_by_hand():
    assert gini(np.array([4, 4, 4])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
    # Sorted 1, 3: (-1 * 1 + 1 * 3) / (2 * 4)
    assert gini(np.array([3, 1])) == pytest.approx(1 / 4)
    assert math.isnan(gini(np.array([0, 0])))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30).filter(any))
def test_gini_is_the_mean_difference_and_the_area_beside_the_lorenz_curve(counts):
    x = np.array(counts)
    differences = np.abs(x[:, None] - x[None, :]).mean() / (2 * x.mean())
    assert gini(x) == pytest.approx(differences)
    curve = lorenz(x, points=len(x))
    area = ((curve[1:] + curve[:-1]) / 2).mean()
    assert gini(x) == pytest.approx(1 - 2 * area)


def test_a_lorenz_curve_goes_from_nothing_to_all():
    assert lorenz(np.array([0, 0, 2, 2]), points=4).tolist() == [0, 0, 0, 0.5, 1]
