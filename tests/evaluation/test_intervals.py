"""Wilson's interval is SciPy's, bin by bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.intervals import wilson_interval


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 500), part=st.floats(0, 1), level=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_it_is_that_of_scipy(n: int, part: float, level: float) -> None:
    hits = round(part * n)
    low, high = wilson_interval(np.array([hits / n, 0.5]), np.array([n, 4]), level)
    expected = binomtest(hits, n).proportion_ci(level, method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("shares", "counts", "level", "field"),
    [
        ([0.5, 0.5], [1], 0.95, "shares"),
        ([1.5], [1], 0.95, "shares"),
        ([float("nan")], [1], 0.95, "shares"),
        ([0.5], [0], 0.95, "counts"),
        ([0.5], [3], 1.0, "level"),
    ],
)
def test_what_has_no_interval_is_refused(shares: list[float], counts: list[int], level: float, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        wilson_interval(np.array(shares), np.array(counts), level)
    assert error.value.field == field
