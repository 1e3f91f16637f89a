"""The arrangement of ranked items is what a plain reading of the rules gives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot
from feast_recsys.features.reranking_settings import MAX_CAPS
from feast_recsys.server import requests
from feast_recsys.server.requests import Reranking
from feast_recsys.server.reranking import Cap, arrange, check, directions, likenesses, positions_of

# Cosines of these, and sums of such products with the weights and probabilities below, are exact: ties are ties.
AXES = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]
ARROW = {DType.STRING: pa.large_string(), DType.INT64: pa.int64(), DType.BOOL: pa.uint8()}
VALUES = {
    DType.STRING: st.sampled_from(["", "a", "b", "c"]),
    DType.INT64: st.sampled_from([-1, 0, 7, 2**60]),
    DType.BOOL: st.booleans(),
}


def oracle(scores, k, pinned, caps, weight, vectors):
    """One candidate after the other; a cap is its values of each candidate and its limit."""
    placed = []

    def breaks(position):
        return any(
            sum(value in values[other] for other in placed) >= most
            for values, most in caps
            for value in set(values[position])
        )

    def worth(position):
        likeness = [float(np.dot(vectors[position], vectors[other])) for other in placed]
        return weight * float(scores[position]) - (1 - weight) * max(likeness, default=0.0)

    for position in pinned:
        if len(placed) < k and not breaks(position):
            placed.append(position)
    while len(placed) < k:
        left = [n for n in range(len(scores)) if n not in placed and not breaks(n)]
        if not left:
            break
        placed.append(max(left, key=lambda n: (worth(n), scores[n], -n)))
    return placed


def cap_of(dtype, items, most, *, many=False):
    """A cap over values as a snapshot holds them."""
    column = Column.of(dtype, items, is_list=many)
    flat = pa.array(column.values.astype(np.uint8) if dtype is DType.BOOL else column.values, ARROW[dtype])
    values = flat if column.offsets is None else pa.LargeListArray.from_arrays(column.offsets, flat)
    return Cap(values, column.valid, most)


@st.composite
def cases(draw):
    m = draw(st.integers(0, 14))
    scores = draw(st.lists(st.integers(0, 16), min_size=m, max_size=m).map(lambda s: np.array(s, np.float32) / 16))
    vectors = np.array([draw(st.sampled_from(AXES)) for _ in range(m)], np.float32).reshape(m, 3)
    columns = []
    for dtype in draw(st.lists(st.sampled_from(list(VALUES)), max_size=3)):
        many = draw(st.booleans())
        value = st.lists(VALUES[dtype], max_size=3) if many else VALUES[dtype]
        items = draw(st.lists(st.none() | value, min_size=m, max_size=m))
        columns.append((dtype, many, items, draw(st.integers(1, 3))))
    pinned = draw(st.lists(st.integers(0, m - 1), unique=True, max_size=4)) if m else []
    weight = draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    return scores, vectors, columns, pinned, weight, draw(st.integers(1, 16))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_arrangement_is_that_of_a_plain_reading(case):
    scores, vectors, columns, pinned, weight, k = case
    caps = [cap_of(dtype, items, most, many=many) for dtype, many, items, most in columns]
    read = [
        ([[] if item is None else item if many else [item] for item in items], most)
        for _, many, items, most in columns
    ]  # fmt: skip
    placed = arrange(scores, k, pinned=pinned, caps=caps, relevance_weight=weight, vectors=vectors)
    assert placed.dtype == np.int64
    assert placed.tolist() == oracle(scores, k, pinned, read, weight, vectors)


def test_diversity_with_vectors_of_any_direction():
    random = np.random.default_rng(3)
    scores = random.random(200).astype(np.float32)
    vectors = directions(random.normal(size=(200, 9)).astype(np.float32), bias=1)
    for weight in (0.1, 0.5, 0.9):
        placed = arrange(scores, 40, relevance_weight=weight, vectors=vectors)
        assert placed.tolist() == oracle(scores, 40, [], [], weight, vectors.astype(np.float64))


def test_less_weight_of_the_probability_gives_less_alike_items():
    random = np.random.default_rng(4)
    centres = random.normal(size=(8, 16))
    vectors = directions(
        (centres[random.integers(0, 8, 300)] + 0.1 * random.normal(size=(300, 16))).astype("f4"), bias=0
    )
    scores = random.random(300).astype(np.float32)

    def alike(weight):
        placed = vectors[arrange(scores, 8, relevance_weight=weight, vectors=vectors)]
        return float(np.mean((placed @ placed.T)[~np.eye(8, dtype=bool)]))

    assert alike(1.0) > alike(0.7) > alike(0.0)


def test_the_full_weight_is_the_order_of_probability_and_needs_no_vectors():
    scores = np.array([0.5, 0.9, 0.5, 0.1], np.float32)
    assert arrange(scores, 3).tolist() == [1, 0, 2]
    assert arrange(scores, 9, relevance_weight=1.0).tolist() == [1, 0, 2, 3]


def test_a_cap_is_held_by_pinned_items_too():
    genres = DType.STRING, [["x"], ["x", "y"], ["x", "x"], ["y"], []]
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.1], np.float32)
    assert arrange(scores, 5, caps=[cap_of(*genres, 1, many=True)]).tolist() == [0, 3, 4]
    assert arrange(scores, 5, pinned=[2, 1], caps=[cap_of(*genres, 1, many=True)]).tolist() == [2, 3, 4]
    assert arrange(scores, 5, pinned=[2, 1], caps=[cap_of(*genres, 2, many=True)]).tolist() == [2, 1, 3, 4]


def test_directions_leave_the_bias_out_and_nothing_is_like_a_zero_vector():
    vectors = np.array([[3, 4, 9], [0, 0, 5], [-6, -8, 1]], np.float32)
    unit = directions(vectors, bias=1)
    assert unit.shape == (3, 2)
    assert (unit @ unit.T).tolist() == pytest.approx(np.array([[1, 0, -1], [0, 0, 0], [-1, 0, 1]]))


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_items_of_a_model_with_directions_are_as_alike_as_their_cosine(metric):
    vectors = np.random.default_rng(5).normal(size=(9, 4)).astype(np.float32)
    first, second = likenesses(vectors, bias=1, metric=metric)
    np.testing.assert_array_equal(first, directions(vectors, bias=1))
    assert first is second


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_items_of_a_model_with_distances_are_as_alike_as_they_are_near_wherever_zero_is(shift):
    vectors = np.random.default_rng(5).normal(size=(40, 4))
    first, second = likenesses((vectors + shift).astype(np.float32), bias=0, metric="l2")
    radius = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).max()
    expected = 1 - cdist(vectors, vectors, "sqeuclidean") / (2 * radius**2)
    np.testing.assert_allclose(first @ second.T, expected, atol=1e-3)
    assert (np.abs(expected) <= 1).all()
    scores = np.random.default_rng(6).random(40).astype(np.float32)
    placed = arrange(scores, 10, pinned=[3], relevance_weight=0.6, vectors=first, others=second)
    assert placed.tolist() == by_likeness(scores, 10, [3], 0.6, expected)


def by_likeness(scores, k, placed, weight, alike):
    """One candidate after the other."""
    while len(placed) < k:
        worth = [weight * score - (1 - weight) * max(alike[n][placed]) for n, score in enumerate(scores)]
        placed = [*placed, max(set(range(len(scores))) - set(placed), key=worth.__getitem__)]
    return placed


def test_equal_items_are_wholly_alike():
    for vectors in (np.ones((3, 2), np.float32), np.zeros((1, 2), np.float32)):
        first, second = likenesses(vectors, bias=0, metric="l2")
        assert (first @ second.T).tolist() == np.ones((len(vectors), len(vectors))).tolist()
    assert [len(side) for side in likenesses(np.empty((0, 2), np.float32), bias=0, metric="l2")] == [0, 0]


def test_positions_follow_the_wish_and_leave_out_what_is_not_there():
    assert positions_of(np.array([7, -1, 3, 7, 9]), np.array([3, 5, 7])) == [2, 0]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshot")
    columns = {"v:genre": Column.of(DType.STRING, ["a"]), "v:price": Column.of(DType.FLOAT32, [1.0])}
    write_snapshot(folder, np.arange(1), columns)
    return open_snapshot(folder)


def cap(key="v:genre", max_items=1):
    return requests.Cap(key, max_items)


@pytest.mark.parametrize(
    ("rules", "field", "message"),
    [
        (Reranking(relevance_weight=1.5), "reranking.relevance_weight", "between 0"),
        (Reranking(relevance_weight=-0.1), "reranking.relevance_weight", "between 0"),
        (Reranking(relevance_weight=float("nan")), "reranking.relevance_weight", "between 0"),
        (Reranking(caps=(cap(), cap("v:x"))), "reranking.caps[1].key", "no item feature 'v:x'; there are: v:genre"),
        (Reranking(caps=(cap("v:price"),)), "reranking.caps[0].key", "v:price is float32"),
        (Reranking(caps=(cap(max_items=0),)), "reranking.caps[0].max_items", "at least 1"),
        (Reranking(caps=(cap(max_items=-2),)), "reranking.caps[0].max_items", "at least 1"),
        (Reranking(caps=(cap(),) * (MAX_CAPS + 1)), "reranking.caps", "the limit is 32"),
        (
            Reranking(pinned_item_ids=("1", "2"), blocked_item_ids=("2",)),
            "reranking.pinned_item_ids[1]",
            "'2' is blocked as well",
        ),
    ],
)
def test_what_has_no_meaning_is_named_by_its_path(snapshot, rules, field, message):
    with pytest.raises(InvalidArgument, match=message) as caught:
        check(rules, snapshot)
    assert caught.value.field == field


def test_what_has_a_meaning_is_let_through(snapshot):
    check(Reranking(), snapshot)
    everything = Reranking(
        relevance_weight=0.0, caps=(cap(),) * MAX_CAPS, pinned_item_ids=("1", "1", "?"), blocked_item_ids=("2",)
    )
    check(everything, snapshot)
