"""What filters let pass is kept, under whatever form means the same, within so many bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.filter_plan import evaluate, plan_of
from feast_recsys.bundle.filters import Comparison, Compound
from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot

N = 1000
MIB = 1 << 20


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    random = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("snapshot")
    years = random.integers(1900, 2030, N).tolist()
    genres = [random.choice(["a", "b", "c"], random.integers(0, 3)).tolist() for _ in range(N)]
    prices = random.random(N).tolist()
    columns = {
        "v:year": Column.of(DType.INT64, years),
        "v:genres": Column.of(DType.STRING, genres, is_list=True),
        "v:price": Column.of(DType.FLOAT32, prices),
    }
    write_snapshot(folder, np.arange(N), columns)
    return open_snapshot(folder)


YEAR = Comparison("gte", "v:year", 1990)
GENRE = Comparison("eq", "v:genres", "a")
CHEAP = Comparison("lt", "v:price", 0.1)


def both(kind, *parts):
    return Compound(kind, parts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (both("and", YEAR, GENRE), both("and", GENRE, YEAR)),
        (both("or", YEAR, GENRE), both("or", GENRE, YEAR, GENRE)),
        (both("and", YEAR, both("and", GENRE, CHEAP)), both("and", CHEAP, YEAR, GENRE)),
        (both("not", both("not", YEAR)), YEAR),
        (both("and", YEAR), YEAR),
        (both("or", both("or", YEAR)), YEAR),
        (Comparison("gt", "v:year", 1989), YEAR),
        (Comparison("gt", "v:year", 1989.5), YEAR),
        (Comparison("gte", "v:year", 1990.0), YEAR),
        (Comparison("lt", "v:year", 2000), Comparison("lte", "v:year", 1999.5)),
        (Comparison("in", "v:genres", ("a",)), GENRE),
        (Comparison("in", "v:genres", ("a", "b", "a")), Comparison("in", "v:genres", ("b", "a"))),
        (both("not", GENRE), Comparison("ne", "v:genres", "a")),
        (Comparison("eq", "v:year", 1990.0), Comparison("eq", "v:year", 1990)),
        (Comparison("in", "v:year", (1990, 1.5)), Comparison("eq", "v:year", 1990)),
        (Comparison("eq", "v:price", 0.1), Comparison("eq", "v:price", float(np.float32(0.1)))),
        (Comparison("eq", "v:price", -0.0), Comparison("eq", "v:price", 0)),
        (Comparison("gt", "v:year", 2**70), Comparison("in", "v:year", ())),
        (Comparison("lt", "v:year", float("-inf")), Comparison("in", "v:year", ())),
    ],
)
def test_what_means_the_same_is_found_again(snapshot, one, other):
    cache = FilterCache(snapshot, MIB)
    first, known = cache.allowed(one)
    assert not known
    assert cache.allowed(other) == (first, True)
    assert first.mask.tolist() == evaluate(other, snapshot).tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (both("and", YEAR, GENRE), both("or", YEAR, GENRE)),
        (Comparison("gt", "v:year", 1990), YEAR),
        (Comparison("lte", "v:price", 0.1), CHEAP),
        (Comparison("ne", "v:genres", "a"), GENRE),
        (Comparison("eq", "v:year", 1), Comparison("eq", "v:price", 1)),
    ],
)
def test_what_means_something_else_is_not(snapshot, one, other):
    cache = FilterCache(snapshot, MIB)
    cache.allowed(one)
    allowed, known = cache.allowed(other)
    assert not known
    assert allowed.mask.tolist() == evaluate(other, snapshot).tolist()


leaves = st.one_of(
    st.builds(
        Comparison, st.sampled_from(["eq", "gt", "gte", "lt", "lte"]), st.just("v:year"), st.integers(1985, 1990)
    ),
    st.builds(Comparison, st.just("in"), st.just("v:genres"), st.lists(st.sampled_from("abc"), max_size=3).map(tuple)),
)
trees = st.recursive(
    leaves,
    lambda children: st.one_of(
        st.builds(Compound, st.sampled_from(["and", "or"]), st.lists(children, min_size=1, max_size=3).map(tuple)),
        st.builds(Compound, st.just("not"), st.tuples(children)),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(trees, min_size=1, max_size=12), st.sampled_from([0, 3000, 30_000, MIB]))
def test_a_cache_of_any_size_answers_as_a_fresh_evaluation(snapshot, filters, limit):
    cache = FilterCache(snapshot, limit)
    for condition in filters:
        allowed, _ = cache.allowed(condition)
        assert np.array_equal(allowed.mask, evaluate(condition, snapshot))
        assert cache.bytes <= limit


def shuffled(condition, random):
    if isinstance(condition, Comparison):
        return condition
    parts = [shuffled(part, random) for part in condition.filters]
    random.shuffle(parts)
    return Compound(condition.type, tuple(parts))


@settings(deadline=None, max_examples=100)
@given(trees, st.randoms(use_true_random=False))
def test_the_order_of_operands_does_not_count(snapshot, tree, random):
    assert plan_of(tree, snapshot) == plan_of(shuffled(tree, random), snapshot)


def test_the_longest_unused_is_forgotten_first(snapshot):
    wanted = [Comparison("gte", "v:year", year) for year in range(1950, 1953)]
    one = FilterCache(snapshot, MIB)
    one.allowed(wanted[0])
    cache = FilterCache(snapshot, 6 * one.bytes)
    for condition, known in [(0, False), (1, False), (0, True), (2, False), (0, True), (1, False)]:
        assert cache.allowed(wanted[condition])[1] is known


def test_a_comparison_is_kept_for_other_filters(snapshot):
    """A filter takes less where its comparison is there already."""
    fresh, used = FilterCache(snapshot, MIB), FilterCache(snapshot, MIB)
    used.allowed(YEAR)
    before = used.bytes
    for cache in (fresh, used):
        assert not cache.allowed(both("not", YEAR))[1]
    assert 0 < used.bytes - before < fresh.bytes


@pytest.mark.parametrize("limit", [0, MIB])
def test_of_two_filters_together_both_conditions_are_known(snapshot, limit):
    cache = FilterCache(snapshot, limit)
    only = Allowed(evaluate(GENRE, snapshot), cache.slices, plan_of(GENRE, snapshot))
    joint = cache.both(cache.allowed(YEAR)[0], only)
    assert joint.mask.tolist() == evaluate(both("and", YEAR, GENRE), snapshot).tolist()
    assert joint.condition == plan_of(both("and", GENRE, YEAR), snapshot)
    assert joint.slices is cache.slices
    kept = cache.both(cache.allowed(YEAR)[0], only) is joint
    assert kept is cache.allowed(both("and", GENRE, YEAR))[1] is (limit > 0)
    assert cache.bytes <= limit


def test_what_a_request_leaves_out_stays_beside_both_filters(snapshot):
    cache, out = FilterCache(snapshot, MIB), np.array([3, 500])
    only = Allowed(evaluate(GENRE, snapshot), cache.slices, plan_of(GENRE, snapshot))
    filtered = cache.both(cache.allowed(YEAR)[0].without(out), only)
    assert filtered.filter is cache.both(cache.allowed(YEAR)[0], only)
    assert cache.both(all_but(out, N), only).filter is only
    for allow, condition in ((filtered, both("and", YEAR, GENRE)), (cache.both(all_but(out, N), only), GENRE)):
        assert np.flatnonzero(evaluate(condition, snapshot) & ~allow.mask).tolist() == [
            row for row in out.tolist() if evaluate(condition, snapshot)[row]
        ]
        assert not (allow.mask & ~evaluate(condition, snapshot)).any()


def test_a_choice_that_no_filter_says_has_no_condition(snapshot):
    cache = FilterCache(snapshot, MIB)
    rows = Allowed(np.arange(N) % 2 == 0)
    joint = cache.both(cache.allowed(YEAR)[0], rows)
    assert joint.condition is None
    assert joint.mask.tolist() == (evaluate(YEAR, snapshot) & rows.mask).tolist()
    assert cache.both(None, rows) is cache.both(rows, None) is rows
    assert cache.both(None, None) is None


def test_a_wrong_filter_is_refused_and_leaves_nothing(snapshot):
    cache = FilterCache(snapshot, MIB)
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            cache.allowed(both("and", YEAR, Comparison("eq", "v:year", "x")))
        assert caught.value.field == "filter.compound.filters[1].comparison.value"
    assert cache.bytes == 0


def test_a_truth_value_is_no_number_even_where_that_number_was_asked_for(snapshot):
    cache = FilterCache(snapshot, MIB)
    cache.allowed(Comparison("eq", "v:year", 1))
    with pytest.raises(InvalidArgument):
        cache.allowed(Comparison("eq", "v:year", True))


def test_threads_share_it(snapshot):
    cache = FilterCache(snapshot, 20_000)
    conditions = [Comparison("gte", "v:year", 1950 + n % 7) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda c: cache.allowed(c)[0].count, conditions))
    assert answers == [int(evaluate(c, snapshot).sum()) for c in conditions]
    assert cache.bytes <= 20_000
