"""The baselines solve the problems that define them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.baselines import Baseline, Ease, ItemKnn, Popularity, interaction_matrix
from feast_recsys.evaluation.metrics import Relevant, mean, recall_at, top_k

BASELINES = [
    pytest.param(Popularity.fit, id="popularity"),
    pytest.param(lambda x: ItemKnn.fit(x, k=3), id="item_knn"),
    pytest.param(lambda x: Ease.fit(x, regularization=1.0), id="ease"),
]


def histories_of(matrix):
    return [np.flatnonzero(row) for row in matrix]


def checkerboard(users=24, items=12):
    """Even users have the even items and odd users the odd ones, each but one: the item that is missing is known."""
    matrix = (np.arange(users)[:, None] + np.arange(items)) % 2 == 0
    missing = (np.arange(users) // 2 * 2 + np.arange(users) % 2) % items
    matrix[np.arange(users), missing] = False
    return matrix, missing


@st.composite
def tables(draw):
    users, items = draw(st.integers(1, 8)), draw(st.integers(1, 7))
    cells = draw(st.lists(st.integers(0, 1), min_size=users * items, max_size=users * items))
    return np.array(cells).reshape(users, items)


@pytest.mark.parametrize(
    "fit",
    [pytest.param(lambda x: ItemKnn.fit(x, k=5), id="item_knn"), pytest.param(lambda x: Ease.fit(x), id="ease")],
)
def test_the_missing_square_of_a_checkerboard_is_found(fit):
    matrix, missing = checkerboard()
    scores = fit(sparse.csr_array(matrix)).scores(histories_of(matrix))
    ranked = top_k(scores, 1, ~matrix)
    assert ranked[:, 0].tolist() == missing.tolist()
    assert mean(recall_at(ranked, Relevant.from_lists(missing[:, None].tolist()), 1)) == 1


def test_popularity_cannot_see_the_checkerboard():
    """Every item has equally many users, so that the lowest unseen row wins, right or wrong."""
    matrix, missing = checkerboard()
    ranked = top_k(Popularity.fit(sparse.csr_array(matrix)).scores(histories_of(matrix)), 1, ~matrix)
    assert ranked[:, 0].tolist() == [int(np.flatnonzero(~row)[0]) for row in matrix]
    assert mean(recall_at(ranked, Relevant.from_lists(missing[:, None].tolist()), 1)) < 0.5


@pytest.mark.parametrize("fit", BASELINES)
def test_every_baseline_scores_the_catalogue_for_every_history(fit):
    matrix, _ = checkerboard()
    baseline: Baseline = fit(sparse.csr_array(matrix))
    scores = baseline.scores([np.array([0, 4]), np.empty(0, np.int64), np.array([4, 0, 4])])
    assert (scores.shape, scores.dtype) == ((3, 12), np.float32)
    assert np.isfinite(scores).all()
    assert scores[0].tolist() == scores[2].tolist()  # neither order nor repetition counts
    assert baseline.scores([]).shape == (0, 12)


@pytest.mark.parametrize("fit", BASELINES)
def test_the_form_and_the_values_of_the_matrix_do_not_count(fit):
    matrix, _ = checkerboard()
    rated = matrix * np.arange(1, 13)
    users, items = np.nonzero(matrix)
    twice = sparse.coo_array((np.ones(2 * len(users)), (np.tile(users, 2), np.tile(items, 2))), shape=matrix.shape)
    histories = histories_of(matrix)
    expected = fit(sparse.csr_array(matrix)).scores(histories)
    for other in (sparse.csc_array(rated), sparse.csr_matrix(rated.astype(np.float32)), twice):
        before = other.toarray()
        assert fit(other).scores(histories).tolist() == expected.tolist()
        assert (other.toarray() == before).all()  # the caller's matrix is left as it was


@pytest.mark.parametrize("history", [[12], [-1], [0, 99]])
def test_rows_outside_the_catalogue_are_refused(history):
    matrix, _ = checkerboard()
    for baseline in (ItemKnn.fit(sparse.csr_array(matrix)), Ease.fit(sparse.csr_array(matrix))):
        with pytest.raises(InvalidArgument, match=r"item rows 0\.\.11"):
            baseline.scores([np.array(history)])


def test_histories_become_a_matrix_of_ones():
    matrix = interaction_matrix([np.array([2, 0, 2]), np.empty(0, np.int64)], 4)
    assert matrix.toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert matrix.dtype == np.float32


def test_popularity_counts_users():
    matrix = sparse.csr_array(np.array([[5, 0, 1], [3, 0, 0]]))
    assert Popularity.fit(matrix).scores([np.array([0])] * 2).tolist() == [[2, 0, 1]] * 2


def neighbour_scores(matrix, histories, k, shrinkage):
    """Item neighbours by the definition, in plain Python."""
    n = matrix.shape[1]
    owners = [set(np.flatnonzero(matrix[:, item]).tolist()) for item in range(n)]

    def similarity(i, j):
        both = len(owners[i] & owners[j])
        return both / (math.sqrt(len(owners[i]) * len(owners[j])) + shrinkage) if both and i != j else 0.0

    table = np.zeros((len(histories), n))
    for j in range(n):
        # Rounded, so that equal similarities are equal however their roots were rounded.
        nearest = sorted((i for i in range(n)), key=lambda i: (-round(similarity(i, j), 9), i))[:k]
        for user, history in enumerate(histories):
            table[user, j] = sum(similarity(i, j) for i in nearest if i in history)
    return table


@settings(deadline=None, max_examples=150)
@given(tables(), st.integers(1, 9), st.sampled_from([0.0, 0.5, 10.0]))
def test_item_neighbours_are_those_of_the_definition(matrix, k, shrinkage):
    baseline = ItemKnn.fit(sparse.csr_array(matrix), k=k, shrinkage=shrinkage)
    # One item at a time shows each similarity by itself.
    histories = [np.array([item]) for item in range(matrix.shape[1])]
    expected = neighbour_scores(matrix, histories, k, shrinkage)
    np.testing.assert_allclose(baseline.scores(histories), expected, rtol=1e-6)
    np.testing.assert_allclose(
        baseline.scores(histories_of(matrix)), neighbour_scores(matrix, histories_of(matrix), k, shrinkage), rtol=1e-5
    )


def test_neighbours_by_hand():
    # Items 0 and 1 share both users of 0; items 1 and 2 share one; 0 and 2 share none.
    matrix = sparse.csr_array(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]]))
    one = ItemKnn.fit(matrix, k=1).weights.toarray()
    np.testing.assert_allclose(one[:, 0], [0, 2 / math.sqrt(6), 0], rtol=1e-6)
    np.testing.assert_allclose(one[:, 1], [2 / math.sqrt(6), 0, 0], rtol=1e-6)
    np.testing.assert_allclose(one[:, 2], [0, 1 / math.sqrt(3), 0], rtol=1e-6)
    shrunk = ItemKnn.fit(matrix, k=2, shrinkage=10).weights.toarray()
    np.testing.assert_allclose(shrunk[:, 1], [2 / (math.sqrt(6) + 10), 0, 1 / (math.sqrt(3) + 10)], rtol=1e-6)


def test_neighbours_are_found_across_blocks_of_items():
    """Item n and item n + 1100 have the same users, and nobody else has them."""
    n = 1100
    matrix = sparse.hstack([sparse.eye_array(n), sparse.eye_array(n)])
    weights = ItemKnn.fit(matrix, k=5).weights
    assert weights.nnz == 2 * n
    assert (top_k(weights.toarray().T, 1)[:, 0] == (np.arange(2 * n) + n) % (2 * n)).all()


@settings(deadline=None, max_examples=100)
@given(tables(), st.sampled_from([0.1, 1.0, 30.0]))
def test_each_column_of_ease_is_the_ridge_regression_of_an_item_on_all_others(matrix, regularization):
    weights = Ease.fit(sparse.csr_array(matrix), regularization=regularization).weights
    assert weights.dtype == np.float32
    assert (np.diag(weights) == 0).all()
    for item in range(matrix.shape[1]):
        others = np.delete(np.arange(matrix.shape[1]), item)
        x = matrix[:, others].astype(float)
        ridge = np.linalg.solve(x.T @ x + regularization * np.eye(len(others)), x.T @ matrix[:, item])
        np.testing.assert_allclose(weights[others, item], ridge, rtol=1e-4, atol=1e-6)


def test_ease_by_hand():
    """Two items, both with the same two users: P = [[2 + l, 2], [2, 2 + l]]^-1, so B_01 = 2 / (2 + l)."""
    ease = Ease.fit(sparse.csr_array(np.ones((2, 2))), regularization=3.0)
    np.testing.assert_allclose(ease.weights, [[0, 0.4], [0.4, 0]], rtol=1e-6)
    np.testing.assert_allclose(ease.scores([np.array([0]), np.array([0, 1])]), [[0, 0.4], [0.4, 0.4]], rtol=1e-6)


def test_settings_without_meaning_are_refused():
    matrix = sparse.csr_array(np.ones((2, 2)))
    for fit, field in [
        (lambda: ItemKnn.fit(matrix, k=0), "k"),
        (lambda: ItemKnn.fit(matrix, shrinkage=-1), "shrinkage"),
        (lambda: Ease.fit(matrix, regularization=0), "regularization"),
    ]:
        with pytest.raises(InvalidArgument) as refusal:
            fit()
        assert refusal.value.field == field
