"""The same vectors have the same scores, wherever they stand, with whatever else is asked, and whoever asks beside."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, open_index
from feast_recsys.bundle.index.segments import TOMBSTONE, Segments
from feast_recsys.bundle.index.slices import Slices
from feast_recsys.bundle.index.spec import spec_of

N, D = 1_500, 33  # a width that matrix products deal with in two ways


@pytest.fixture(scope="module")
def vectors():
    """Of every item there are ten on average: such as a model can't tell apart."""
    random = np.random.default_rng(0)
    return random.standard_normal((N // 10, D)).astype(np.float32)[random.integers(0, N // 10, N)]


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((40, D)).astype(np.float32)


def filters():
    random = np.random.default_rng(2)
    return [Allowed(random.random(N) < share, Slices(1 << 20)) for share in (0.1, 0.3, 0.6)]


def expect_same(found, again):
    for part, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(part, other)


def expect_rows_in_order(vectors, rows, scores):
    """Among equal vectors the lower row comes first, and their scores are equal."""
    for mine, score in zip(rows, scores, strict=True):
        for at in range(1, len(mine)):
            if (vectors[mine[at]] == vectors[mine[at - 1]]).all():
                assert score[at] == score[at - 1]
                assert mine[at] > mine[at - 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_exact_search_finds_the_same_whichever_way_it_goes(vectors, queries, threads):
    index = ExactIndex(vectors)
    with threadpool_limits(threads):
        for allow in filters():
            for number, query in enumerate(queries):
                out = np.random.default_rng(number).integers(0, N, 30)
                for asked in (allow, allow.without(out)):
                    first = index.search(query[None], 40, asked)  # gathered, or among all
                    for _ in range(2):  # then among those that are kept
                        expect_same(index.search(query[None], 40, asked), first)
                    expect_same(index.search(query[None], 40, Allowed(asked.mask)), first)
                    expect_same([part[:, :20] for part in first], index.search(query[None], 20, asked))
                    expect_rows_in_order(vectors, *first)


def test_many_queries_are_answered_as_each_alone(vectors, queries):
    index = ExactIndex(vectors)
    for allow in (None, *filters()):
        together = index.search(queries, 40, allow)
        for number, query in enumerate(queries):
            expect_same(index.search(query[None], 40, allow), [part[number : number + 1] for part in together])


def test_of_items_beside_a_base_equal_ones_come_in_order_too(vectors, queries):
    """Where the base is searched exactly, nobody can tell that there is one."""
    rows = np.sort(np.random.default_rng(3).permutation(N)[: N - 200])
    base = vectors[rows]
    rows[:50] = TOMBSTONE
    index = Segments(ExactIndex(base), rows, vectors)
    for allow in (None, *filters()):
        expect_same(index.search(queries, 40, allow), ExactIndex(vectors).search(queries, 40, allow))


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq8", "hnsw"])
def test_an_index_that_looks_everywhere_gives_the_scores_of_exact_search_with_a_filter(
    kind, vectors, queries, tmp_path
):
    search = {"breadth": N} if kind == "hnsw" else {"probes": 8}
    spec = spec_of(kind, {**({} if kind == "hnsw" else {"lists": 8}), **search})
    build_index(spec, vectors, tmp_path)
    index = open_index(spec, tmp_path, vectors)
    for allow in filters():
        for query in queries:
            first = index.search(query[None], 40, allow)
            expect_same(index.search(query[None], 40, allow), first)
            expect_rows_in_order(vectors, *first)
