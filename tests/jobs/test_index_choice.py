"""Which index is taken, given what was measured: time is noise, so that the measurements here are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.index.entry import Measurement
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.jobs.index_trials import between, beyond, choose

EXACT = Measurement(IndexSpec("exact", {}, {}), 1.0, 1.0, 1.0, 8000.0)


def point(kind, low, us, *, size=100, **search):
    spec = IndexSpec(kind, {"lists": 64}, search)
    return Measurement(spec, low + 0.002, low, low + 0.004, us, 2.0, size)


FLAT = point("ivf_flat", 0.991, 80, size=256, probes=16)
SMALL = point("ivf_sq8", 0.992, 83, size=69, probes=16)
SLOPPY = point("ivf_sq8", 0.989, 40, size=69, probes=4)
GRAPH = point("hnsw", 0.999, 95, size=504, breadth=128)


def test_the_fastest_that_reaches_the_recall_with_its_whole_interval():
    assert choose([EXACT, SLOPPY, FLAT, GRAPH], 0.99) == FLAT
    assert choose([EXACT, SLOPPY, FLAT, GRAPH], 0.995) == GRAPH
    assert choose([EXACT, SLOPPY, FLAT, GRAPH], 0.9) == SLOPPY


def test_exact_search_where_nothing_reaches_the_recall_or_is_clearly_faster():
    assert choose([EXACT, SLOPPY], 0.99) == EXACT
    assert choose([EXACT, point("ivf_flat", 0.995, 7000, probes=64)], 0.99) == EXACT
    assert choose([EXACT, point("ivf_flat", 0.995, 6000, probes=64)], 0.99).spec.kind == "ivf_flat"


def test_of_two_that_are_as_fast_the_smaller():
    assert choose([EXACT, FLAT, SMALL], 0.99) == SMALL


def test_the_kind_chosen_before_stays_unless_another_is_clearly_faster():
    assert choose([EXACT, FLAT, GRAPH], 0.99, before=GRAPH.spec) == GRAPH
    slow = point("hnsw", 0.999, 120, breadth=128)
    assert choose([EXACT, FLAT, slow], 0.99, before=slow.spec) == FLAT
    assert choose([EXACT, FLAT, GRAPH], 0.9995, before=GRAPH.spec) == EXACT
    assert choose([EXACT, FLAT, GRAPH], 0.99, before=EXACT.spec) == FLAT


@st.composite
def curves(draw):
    kinds = st.sampled_from(["ivf_flat", "ivf_sq8", "hnsw"])
    points = st.builds(
        point, kinds, st.floats(0.5, 0.996), st.floats(1, 20_000), size=st.integers(1, 500), probes=st.integers(1, 64)
    )
    return [EXACT, *draw(st.lists(points, max_size=12))]


@given(curves(), st.floats(0.5, 1.0), st.sampled_from([None, EXACT.spec, FLAT.spec, GRAPH.spec]))
def test_whatever_was_measured_the_choice_reaches_the_recall_hardly_slower_than_the_fastest(points, recall, last):
    chosen = choose(points, recall, last)
    assert chosen in points
    assert chosen.low >= recall
    assert chosen.microseconds <= 1.25 * min(p.microseconds for p in points if p.low >= recall)
    assert choose(points, recall, chosen.spec).spec.kind == chosen.spec.kind


@pytest.mark.parametrize(("low", "high", "middle"), [(4, 8, 6), (7, 8, None), (8, 8, None), (1, 1000, 500)])
def test_half_way_between_two_searches(low, high, middle):
    a, b = (IndexSpec("ivf_flat", {"lists": 64}, {"probes": n}) for n in (low, high))
    expected = None if middle is None else IndexSpec("ivf_flat", {"lists": 64}, {"probes": middle})
    assert between(a, b) == expected


def test_twice_the_effort_of_the_last_of_two_searches():
    a, b, c = (IndexSpec("hnsw", {}, {"breadth": n}) for n in (64, 100, 200))
    assert beyond(a, b) == c


def test_searches_that_differ_in_more_have_nothing_between_or_beyond():
    a = IndexSpec("ivf_pq", {}, {"probes": 4, "rescored": 200})
    b = IndexSpec("ivf_pq", {}, {"probes": 8, "rescored": 400})
    assert between(a, b) is beyond(a, b) is None
