"""A number enters the models as its place among the training rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.models.inputs.fitter import KNOTS, quantiles
from feast_recsys.models.inputs.layers import QuantileCdf, masked_mean, powers

VALUES = st.lists(st.integers(-1000, 1000), min_size=1, max_size=200)


def place(knots: tuple[tuple[float, float], ...], *values: float) -> list[float]:
    rows = torch.tensor(values, dtype=torch.float32).unsqueeze(-1)
    return [float(row) for row in QuantileCdf([knots])(rows)]


def test_uniform_values_give_a_straight_line() -> None:
    knots = quantiles(np.arange(1001, dtype=np.float64))
    assert len(knots) == KNOTS
    assert place(knots, 0, 250, 500, 1000) == pytest.approx([0, 0.25, 0.5, 1], abs=0.01)


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_it_is_the_share_of_rows_at_or_below_at_every_knot_but_the_first(values: list[int]) -> None:
    array = np.array(values, np.float64)
    knots = quantiles(array)
    for knot, _ in knots[1:]:
        assert place(knots, knot) == pytest.approx([np.mean(array <= knot)], abs=1e-5)
    assert place(knots, knots[0][0]) == [0.0]


@settings(deadline=None, max_examples=50)
@given(VALUES, st.lists(st.floats(-1e9, 1e9, width=32), min_size=2, max_size=20))
def test_it_never_falls_and_stays_between_0_and_1(values: list[int], asked: list[float]) -> None:
    places = place(quantiles(np.array(values, np.float64)), *sorted(asked))
    assert all(-1e-6 <= p <= 1 + 1e-5 for p in places)
    assert all(b >= a - 1e-5 for a, b in pairwise(places))


@pytest.mark.parametrize("values", [[], [7.0], [7.0, 7.0, 7.0]])
def test_numbers_that_do_not_vary_are_finite(values: list[float]) -> None:
    assert np.isfinite(place(quantiles(np.array(values)), -1e9, 7.0, 1e9)).all()


def test_numbers_with_fewer_knots_stand_beside_others() -> None:
    many, few = quantiles(np.arange(100, dtype=np.float64)), quantiles(np.array([0.0, 1.0]))
    both = QuantileCdf([many, few])(torch.tensor([[50.0, 0.5]]))
    assert both[0].tolist() == pytest.approx([*place(many, 50.0), *place(few, 0.5)])


def test_powers_are_x_its_square_and_its_root() -> None:
    assert powers(torch.tensor([[0.25, 1.0]])).tolist() == [[0.25, 1.0, 0.0625, 1.0, 0.5, 1.0]]


def test_a_masked_mean_counts_what_is_there_and_is_zero_where_nothing_is() -> None:
    embedded = torch.tensor([[[2.0], [4.0], [99.0]], [[1.0], [1.0], [1.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(embedded, mask).tolist() == [[3.0], [0.0]]
