"""How deep what is wanted lies, against what sorting all items says."""

from __future__ import annotations

import numpy as np
import pytest

from feast_recsys.bundle.index.depth import Sample, better_among, places

N = 50_000


@pytest.fixture(scope="module")
def items():
    return np.random.default_rng(0).standard_normal((N, 8), np.float32)


@pytest.mark.parametrize("passing", [1.0, 0.9, 0.5, 0.3])
@pytest.mark.parametrize("excluded", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("m", [1, 10, 100])
def test_by_chance_the_last_one_wanted_is_hardly_ever_deeper(m, passing, excluded):
    random = np.random.default_rng(1)
    may_come = random.random((2_000, 2_000)) < passing
    may_come &= random.random((2_000, 2_000)) >= excluded
    place = 1 + np.argmax(np.cumsum(may_come, axis=1) == m, axis=1)
    likely, usual = places(m, passing, excluded)
    assert np.mean(place > likely) < 0.2
    assert np.mean(place > usual) < 0.03
    assert likely <= usual
    assert usual <= 2.0 * place.mean() + 10
    if passing == 1.0 and not excluded:
        assert usual == m


def test_where_nearly_all_are_left_out_there_is_no_usual_place():
    for excluded in (1.0, 2.0):
        assert min(places(10, 1.0, excluded)) > N


def test_a_sample_says_how_many_are_better(items):
    sample, random = Sample.of(items), np.random.default_rng(2)
    assert len(sample.vectors) < N / 10
    for query in random.standard_normal((20, 8)).astype(np.float32):
        scores = np.sort(items @ query)[::-1]
        for depth in (500, 5_000, 25_000):
            about, least = sample.better(query, scores[depth])
            assert abs(about - depth) < 5 * np.sqrt(depth * N / len(sample.vectors))
            assert least <= about
    assert sample.better(query, scores[0]) == (0.0, 0.0)


def test_few_items_are_all_of_the_sample(items):
    few = items[:3_000]
    sample = Sample.of(few)
    np.testing.assert_array_equal(sample.vectors, few)
    query = items[-1]
    assert sample.better(query, np.sort(few @ query)[-11])[0] == 10


@pytest.mark.parametrize("hidden", [0, 3_000, 20_000])
def test_where_what_is_near_may_not_come_back_the_depth_is_that_of_what_does(items, hidden):
    sample = Sample.of(items)
    for query in np.random.default_rng(3).standard_normal((10, 8)).astype(np.float32):
        order = np.argsort(-(items @ query))
        mask = np.ones(N, np.bool_)
        mask[order[:hidden]] = False
        depth = sample.depth_of(query, 100, mask)
        assert hidden + 100 <= depth * 1.1 <= 2 * hidden + 1_500
    mask[:] = False
    mask[:5] = True
    assert sample.depth_of(query, 100, mask) is None


def test_of_what_is_left_out_as_many_are_better_as_a_few_of_it_say(items):
    query = np.random.default_rng(4).standard_normal(8).astype(np.float32)
    order = np.argsort(-(items @ query))
    score = (items @ query)[order[100]]
    for rows, better in ((order[:50], 50), (order[200:300], 0), (np.concatenate([order[:50], order[200:250]]), 50)):
        assert better_among(items, rows, query, score) == better
    mixed = np.random.default_rng(5).permutation(np.concatenate([order[:100], order[-9_900:]]))
    assert abs(better_among(items, mixed, query, score) - 100) < 200
    assert better_among(items, order[:0], query, score) == 0
