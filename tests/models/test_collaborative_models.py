"""Every model without features solves the problem that defines it."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings, JobFailed
from feast_recsys.models.collaborative.als import AlsConfig, fit_als
from feast_recsys.models.collaborative.bpr import BprConfig, fit_bpr
from feast_recsys.models.collaborative.ease import EaseConfig, fit_ease
from feast_recsys.models.collaborative.item_knn import ItemKnnConfig, build_item_knn, fit_item_knn
from feast_recsys.models.collaborative.popularity import PopularityConfig, fit_popularity
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.training.loop import Run

RUN = Run(seed=3)
FITS = [
    pytest.param(fit_popularity, PopularityConfig(), id="popularity"),
    pytest.param(fit_item_knn, ItemKnnConfig(k=5), id="item_knn"),
    pytest.param(fit_ease, EaseConfig(regularization=1.0), id="ease"),
    pytest.param(fit_als, AlsConfig(factors=4, regularization=0.1), id="als"),
    pytest.param(fit_bpr, BprConfig(factors=4, iterations=300, learning_rate=0.1), id="bpr"),
]


def histories_of(matrix):
    return from_lists([np.flatnonzero(row) for row in matrix], matrix.shape[1])


def checkerboard(users=24, items=12):
    """Even users have the even items and odd users the odd ones, each but one: the item that is missing is known."""
    matrix = (np.arange(users)[:, None] + np.arange(items)) % 2 == 0
    missing = (np.arange(users) // 2 * 2 + np.arange(users) % 2) % items
    matrix[np.arange(users), missing] = False
    return matrix, missing


def best_unseen(scores, matrix):
    return np.argmax(np.where(matrix, -np.inf, scores), axis=1).tolist()


def scores_of(model, lists):
    histories = from_lists(lists, 12)
    return model.score(histories, np.arange(len(lists)))


@st.composite
def tables(draw):
    users, items = draw(st.integers(1, 8)), draw(st.integers(1, 7))
    cells = draw(st.lists(st.integers(0, 1), min_size=users * items, max_size=users * items))
    return np.array(cells).reshape(users, items)


# All of them


@pytest.mark.parametrize(("fit", "config"), FITS[1:])
def test_the_missing_square_of_a_checkerboard_is_found(fit, config):
    matrix, missing = checkerboard()
    scores = fit(histories_of(matrix), config, RUN).score(histories_of(matrix), np.arange(len(matrix)))
    assert best_unseen(scores, matrix) == missing.tolist()


def test_popularity_cannot_see_the_checkerboard():
    """Every item has equally many users, so that the lowest unseen position wins, right or wrong."""
    matrix, missing = checkerboard()
    model = fit_popularity(histories_of(matrix), PopularityConfig(), RUN)
    found = best_unseen(model.score(histories_of(matrix), np.arange(len(matrix))), matrix)
    assert found == [int(np.flatnonzero(~row)[0]) for row in matrix]
    assert found != missing.tolist()


@pytest.mark.parametrize(("fit", "config"), FITS)
def test_the_catalogue_is_scored_for_every_history(fit, config):
    model = fit(histories_of(checkerboard()[0]), config, RUN)
    scores = scores_of(model, [[0, 4], [], [4, 0]])
    assert (scores.shape, scores.dtype) == ((3, 12), np.float32)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-5, atol=1e-6)  # order does not count
    assert scores_of(model, []).shape == (0, 12)


@pytest.mark.parametrize(("fit", "config"), FITS)
def test_a_user_without_history_gets_what_is_popular(fit, config):
    matrix, _ = checkerboard()
    matrix[:9, 5] = matrix[:4, 3] = True
    counts = matrix.sum(axis=0)
    scores = scores_of(fit(histories_of(matrix), config, RUN), [[]])
    np.testing.assert_allclose(scores[0], np.log1p(counts), rtol=1e-6)


@pytest.mark.parametrize(("fit", "config"), FITS)
def test_the_same_seed_gives_the_same_scores(fit, config):
    matrix, _ = checkerboard()
    first, second = (fit(histories_of(matrix), config, RUN) for _ in range(2))
    assert np.array_equal(scores_of(first, [[0, 4], [1]]), scores_of(second, [[0, 4], [1]]))


@pytest.mark.parametrize(("fit", "config"), FITS)
def test_histories_of_another_catalogue_are_refused(fit, config):
    model = fit(histories_of(checkerboard()[0]), config, RUN)
    with pytest.raises(InvalidArgument, match="12 items"):
        model.score(from_lists([[0]], 13), [0])


@pytest.mark.parametrize(("fit", "config"), FITS)
def test_nothing_to_learn_from_is_popularity_of_zeros_or_refused(fit, config):
    nothing = from_lists([[], []], 3)
    if fit in (fit_als, fit_bpr):
        with pytest.raises(InvalidArgument, match="nothing to learn from"):
            fit(nothing, config, RUN)
    else:
        assert (fit(nothing, config, RUN).score(nothing, [0, 1]) == 0).all()


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (ItemKnnConfig, "k", 0),
        (ItemKnnConfig, "shrinkage", -1.0),
        (ItemKnnConfig, "shrinkage", math.nan),
        (EaseConfig, "regularization", 0.0),
        (EaseConfig, "regularization", math.inf),
        (EaseConfig, "rank", 0),
        (AlsConfig, "factors", 0),
        (AlsConfig, "regularization", 0.0),
        (AlsConfig, "alpha", -1.0),
        (AlsConfig, "iterations", 0),
        (AlsConfig, "steps", -1),
        (BprConfig, "factors", 0),
        (BprConfig, "learning_rate", math.nan),
        (BprConfig, "regularization", -0.1),
        (BprConfig, "iterations", 0),
        (BprConfig, "ridge", 0.0),
        (BprConfig, "correction", -1.0),
    ],
)
def test_hyperparameters_without_meaning_are_refused_by_name(config, field, value):
    with pytest.raises(InvalidSettings, match=field) as refusal:
        config(**{field: value})
    assert refusal.value.field == field


# Item neighbours


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
        nearest = sorted(range(n), key=lambda i: (-round(similarity(i, j), 9), i))[:k]
        for user, history in enumerate(histories):
            table[user, j] = sum(similarity(i, j) for i in nearest if i in history)
    return table


@settings(deadline=None, max_examples=150)
@given(tables(), st.integers(1, 9), st.sampled_from([0.0, 0.5, 10.0]))
def test_item_neighbours_are_those_of_the_definition(matrix, k, shrinkage):
    n = matrix.shape[1]
    model = fit_item_knn(histories_of(matrix), ItemKnnConfig(k, shrinkage), RUN)
    # One item at a time shows each similarity by itself; then the histories of the fit.
    for lists in ([[item] for item in range(n)], [np.flatnonzero(row).tolist() for row in matrix if row.any()]):
        scores = model.score(from_lists(lists, n), np.arange(len(lists)))
        np.testing.assert_allclose(scores, neighbour_scores(matrix, lists, k, shrinkage), rtol=1e-5, atol=1e-7)


def test_neighbours_by_hand():
    # Items 0 and 1 share both users of 0; items 1 and 2 share one; 0 and 2 share none.
    histories = from_lists([[0, 1], [0, 1], [1, 2]], 3)
    one = fit_item_knn(histories, ItemKnnConfig(k=1), RUN).weights.toarray()
    np.testing.assert_allclose(one[:, 0], [0, 2 / math.sqrt(6), 0], rtol=1e-6)
    np.testing.assert_allclose(one[:, 1], [2 / math.sqrt(6), 0, 0], rtol=1e-6)
    np.testing.assert_allclose(one[:, 2], [0, 1 / math.sqrt(3), 0], rtol=1e-6)
    shrunk = fit_item_knn(histories, ItemKnnConfig(k=2, shrinkage=10), RUN).weights.toarray()
    np.testing.assert_allclose(shrunk[:, 1], [2 / (math.sqrt(6) + 10), 0, 1 / (math.sqrt(3) + 10)], rtol=1e-6)


def test_neighbours_are_found_across_blocks_of_items():
    """Item i and item i + 1100 have the same user, and nobody else has them."""
    n = 1100
    model = fit_item_knn(from_lists([[i, i + n] for i in range(n)], 2 * n), ItemKnnConfig(k=5), RUN)
    assert model.weights.nnz == 2 * n
    assert (model.weights.tocoo().col == (model.weights.tocoo().row + n) % (2 * n)).all()


def test_a_catalogue_too_wide_for_the_door_is_refused_with_the_remedy():
    with pytest.raises(InvalidSettings, match="take family als or ease"):
        build_item_knn(8193, ItemKnnConfig())


# EASE


@settings(deadline=None, max_examples=100)
@given(tables(), st.sampled_from([0.1, 1.0, 30.0]))
def test_each_column_of_ease_is_the_ridge_regression_of_an_item_on_all_others(matrix, regularization):
    weights = fit_ease(histories_of(matrix), EaseConfig(regularization), RUN).weights
    assert weights.dtype == np.float32
    assert (np.diag(weights) == 0).all()
    for item in range(matrix.shape[1]):
        others = np.delete(np.arange(matrix.shape[1]), item)
        x = matrix[:, others].astype(float)
        ridge = np.linalg.solve(x.T @ x + regularization * np.eye(len(others)), x.T @ matrix[:, item])
        np.testing.assert_allclose(weights[others, item], ridge, rtol=1e-4, atol=1e-6)


def test_ease_by_hand():
    """Two items, both with the same two users: P = [[2 + l, 2], [2, 2 + l]]^-1, so B_01 = 2 / (2 + l)."""
    ease = fit_ease(from_lists([[0, 1], [0, 1]], 2), EaseConfig(3.0), RUN)
    np.testing.assert_allclose(ease.weights, [[0, 0.4], [0.4, 0]], rtol=1e-6)
    scores = ease.score(from_lists([[0], [0, 1]], 2), [0, 1])
    np.testing.assert_allclose(scores, [[0, 0.4], [0.4, 0.4]], rtol=1e-6)


def test_a_catalogue_too_large_to_invert_is_refused_with_the_remedy():
    with pytest.raises(InvalidSettings, match="take family als"):
        fit_ease(from_lists([[0]], 20_001), EaseConfig(), RUN)


# ALS


@pytest.mark.parametrize("ratings", [False, True])
def test_als_scores_are_those_of_the_librarys_own_recalculation(ratings):
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    random = np.random.default_rng(1)
    matrix = random.random((30, 20)) < 0.3
    users, items = np.nonzero(matrix)
    given_ratings = random.integers(1, 6, len(users)).astype(np.float32)
    histories = Histories.from_pairs(users, items, 20, given_ratings, size=30)
    config = AlsConfig(factors=5, regularization=0.7, alpha=3.0, ratings=ratings)
    model = fit_als(histories, config, RUN)
    confidence = csr_matrix(histories.matrix())
    confidence.data = 1 + 3 * (given_ratings if ratings else np.ones_like(given_ratings))
    library = AlternatingLeastSquares(factors=5, regularization=0.7, num_threads=1)
    library.item_factors = model.items
    factors = library.recalculate_user(np.arange(30), confidence)
    has = histories.lengths > 0
    scores = model.score(histories, np.arange(30))
    np.testing.assert_allclose(scores[has], (factors @ model.items.T)[has], atol=1e-4)


def test_als_needs_ratings_that_can_be_confidences():
    config = AlsConfig(factors=2, ratings=True)
    with pytest.raises(InvalidArgument, match="no ratings"):
        fit_als(from_lists([[0, 1]], 2), config, RUN)
    for wrong in (-1.0, math.nan):
        with pytest.raises(InvalidArgument, match="at least 0"):
            fit_als(Histories.from_pairs([0, 0], [0, 1], 2, [1.0, wrong]), config, RUN)


def test_without_the_library_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.als", None)
    with pytest.raises(JobFailed, match=r"pip install 'feast-recsys\[train\]'"):
        fit_als(from_lists([[0, 1]], 2), AlsConfig(factors=2), RUN)


# BPR


def test_bpr_puts_what_users_have_above_what_they_have_not():
    matrix, _ = checkerboard()
    model = fit_bpr(histories_of(matrix), BprConfig(factors=4, iterations=300, learning_rate=0.1), RUN)
    for scores in (model.score_known(np.arange(24)), model.score(histories_of(matrix), np.arange(24))):
        ranks = [(row[has][:, None] > row[~has]).mean() for row, has in zip(scores, matrix, strict=True)]
        assert np.mean(ranks) > 0.9
    assert model.facts["kept_top_50"] == 1.0  # seven unseen items are all in both lists


def test_an_item_that_nobody_has_comes_last_in_bpr():
    matrix, _ = checkerboard()
    matrix[:, 4] = False
    scores = scores_of(fit_bpr(histories_of(matrix), BprConfig(factors=4, iterations=20), RUN), [[0], [1, 3]])
    assert scores.argmin(axis=1).tolist() == [4, 4]


def test_bpr_knows_that_the_library_draws_what_users_have_not_by_popularity():
    """Users pick by popularity alone. Told apart from items drawn alike, popular ones look like any others."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, 41)
    shares /= shares.sum()
    histories = from_lists([random.choice(40, 8, replace=False, p=shares) for _ in range(400)], 40)
    counts = np.bincount(histories.items, minlength=40)
    plain, corrected = (
        fit_bpr(histories, BprConfig(factors=2, iterations=60, correction=c), RUN).biases for c in (0.0, 1.0)
    )
    np.testing.assert_allclose(corrected - plain, np.log(counts), rtol=1e-4, atol=1e-4)
    assert stats.spearmanr(corrected, counts).statistic > 0.95
    # Without the correction the most popular items, which are most of what is picked, get next to no credit for it.
    gap = np.log(counts[:5]).mean() - np.log(counts[-20:]).mean()
    assert plain[:5].mean() - plain[-20:].mean() < gap / 2
