"""The gate: popularity by hand on a few users, and the figures that are known of public data where that is there."""

from __future__ import annotations

import os
from math import log2
from pathlib import Path

import pytest
from benchmarks.quality.data import Split, together
from benchmarks.quality.gate import TOLERANCE, Check, check, popular

from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.data.histories import from_lists

VARIABLE = "FEAST_RECSYS_BENCHMARK_DATA"


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder with the public data")
def test_the_figures_of_public_data_are_met() -> None:
    checks = check(Path(os.environ[VARIABLE]))
    assert {one.name.split()[0] for one in checks} == {"Gowalla", "five-star", "census"}
    assert {one.name: one.found for one in checks} == {
        one.name: pytest.approx(one.expected, abs=TOLERANCE) for one in checks
    }
    assert all(one.passes for one in checks)


def test_popularity_is_what_it_is_by_hand() -> None:
    """Items 0 to 4 are had by 3, 2, 2, 0 and 0 of the three users, validation included."""
    train, valid = from_lists([[0, 1], [0], [0, 2]], 5), from_lists([[2], [], [1]], 5)
    test = Relevant.from_lists([[4], [1, 4], []])
    found = popular(Split(train, valid, together(train, valid), test, {}), (1, 2))
    # The first user is left 3 and 4, equally popular: the lower one stands first, and 4 is found second.
    # The second is left 1, 2, 3, 4, and finds one of two, first. The third has nothing to find, and does not count.
    second, both = 1 / log2(3), 1 + 1 / log2(3)
    assert found["recall@1"] == pytest.approx((0 + 1 / 2) / 2)
    assert found["recall@2"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["ndcg@1"] == pytest.approx((0 + 1) / 2)
    assert found["ndcg@2"] == pytest.approx((second + 1 / both) / 2)
    assert found["hit_rate@1"] == pytest.approx(1 / 2)
    assert found["hit_rate@2"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("found", "passes"), [(0.04163, True), (0.041676, True), (0.04169, False), (0.0415, False), (float("nan"), False)]
)
def test_a_figure_passes_if_it_agrees_to_the_digits_that_are_known(found: float, passes: bool) -> None:
    assert Check("Gowalla popularity recall@20", 0.04163, found).passes is passes
