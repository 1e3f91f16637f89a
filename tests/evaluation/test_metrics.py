"""Each metric equals its definition, worked by hand and against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from feast_recsys.evaluation.metrics import (
    average_precision_at,
    hit_rate_at,
    mean,
    ndcg_at,
    recall_at,
    reciprocal_rank,
    top_k,
)
from feast_recsys.evaluation.predictions import (
    auc,
    auc_per_user,
    expected_calibration_error,
    log_loss,
    mae,
    rmse,
    value_reliability,
)
from feast_recsys.evaluation.relevance import Relevant

# User 0 likes 1, 3, 8 and gets hits at ranks 2 and 4; user 1 likes 5 and gets it first; user 2 has no relevant
# item; user 3 likes 0 and 2 and gets a list of one wrong item.
RANKED = np.array([[7, 1, 4, 3], [5, 6, -1, -1], [1, 2, 3, 4], [9, -1, -1, -1]])
RELEVANT = Relevant.from_lists([[8, 3, 1], [5], [], [0, 2]])
NAN = math.nan


def test_relevant_items_are_rows_of_a_csr_matrix_without_repetition():
    relevant = Relevant.from_lists([[3, 1, 3], [], [0]])
    assert relevant.offsets.tolist() == [0, 2, 2, 3]
    assert relevant.items.tolist() == [1, 3, 0]
    assert relevant.counts.tolist() == [2, 0, 1]
    assert len(relevant) == 3
    assert len(Relevant.from_lists([])) == 0


@pytest.mark.parametrize(
    ("metric", "k", "expected"),
    [
        (recall_at, 2, [1 / 3, 1, NAN, 0]),
        (recall_at, 4, [2 / 3, 1, NAN, 0]),
        (hit_rate_at, 1, [0, 1, NAN, 0]),
        (hit_rate_at, 2, [1, 1, NAN, 0]),
        # Hits at 2 and 4: 1/log2(3) + 1/log2(5); at best hits at 1, 2, 3: 1 + 1/log2(3) + 1/2.
        (ndcg_at, 4, [(0.6309297536 + 0.4306765581) / 2.1309297536, 1, NAN, 0]),
        (ndcg_at, 2, [0.6309297536 / 1.6309297536, 1, NAN, 0]),
        (average_precision_at, 4, [(1 / 2 + 2 / 4) / 3, 1, NAN, 0]),
        (average_precision_at, 2, [(1 / 2) / 2, 1, NAN, 0]),
        (reciprocal_rank, 4, [1 / 2, 1, NAN, 0]),
        (reciprocal_rank, 1, [0, 1, NAN, 0]),
        (reciprocal_rank, None, [1 / 2, 1, NAN, 0]),
    ],
)
def test_ranking_metrics_by_hand(metric, k, expected):
    values = metric(RANKED, RELEVANT, k)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_recall_over_the_smaller_of_k_and_the_relevant_items():
    values = recall_at(RANKED, RELEVANT, 2, denominator="min")
    np.testing.assert_allclose(values, [1 / 2, 1, NAN, 0])


def test_users_without_relevant_items_are_left_out_of_means():
    assert mean(recall_at(RANKED, RELEVANT, 4)) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert math.isnan(mean(np.array([NAN, NAN])))


@st.composite
def rankings(draw):
    users, items, width = draw(st.integers(0, 5)), draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rows = []
    for _ in range(users):
        row = draw(st.permutations(range(items)))[: draw(st.integers(0, width))]
        rows.append(row + [-1] * (width - len(row)))
    relevant = [draw(st.sets(st.integers(0, items + 1))) for _ in range(users)]
    return np.array(rows, np.int64).reshape(users, width), relevant, draw(st.integers(1, width))


@settings(deadline=None, max_examples=200)
@given(rankings())
def test_ranking_metrics_are_their_definitions(case):
    ranked, relevant, k = case
    csr = Relevant.from_lists([sorted(items) for items in relevant])
    found = {
        "recall": recall_at(ranked, csr, k),
        "recall_min": recall_at(ranked, csr, k, denominator="min"),
        "ndcg": ndcg_at(ranked, csr, k),
        "hit": hit_rate_at(ranked, csr, k),
        "ap": average_precision_at(ranked, csr, k),
        "rr": reciprocal_rank(ranked, csr, k),
    }
    for user, (row, wanted) in enumerate(zip(ranked.tolist(), relevant, strict=True)):
        hits = [item in wanted for item in row[:k]]
        if not wanted:
            assert all(math.isnan(values[user]) for values in found.values())
            continue
        ranks = [r for r, hit in enumerate(hits, start=1) if hit]
        best = min(k, len(wanted))
        ideal = sum(1 / math.log2(r + 1) for r in range(1, best + 1))
        assert found["recall"][user] == pytest.approx(len(ranks) / len(wanted))
        assert found["recall_min"][user] == pytest.approx(len(ranks) / best)
        assert found["ndcg"][user] == pytest.approx(sum(1 / math.log2(r + 1) for r in ranks) / ideal)
        assert found["hit"][user] == (1 if ranks else 0)
        assert found["ap"][user] == pytest.approx(sum(sum(hits[:r]) / r for r in ranks) / best)
        assert found["rr"][user] == pytest.approx(1 / ranks[0] if ranks else 0)


@pytest.mark.parametrize("metric", [recall_at, ndcg_at, hit_rate_at, average_precision_at, reciprocal_rank])
def test_a_cut_beyond_the_list_is_refused_rather_than_scored_too_low(metric):
    for k in (0, 5):
        with pytest.raises(InvalidArgument, match=r"k must lie in 1\.\.4") as refusal:
            metric(RANKED, RELEVANT, k)
        assert refusal.value.field == "k"
    with pytest.raises(InvalidArgument, match="relevant has 4 users"):
        metric(RANKED[:3], RELEVANT, 2)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(InvalidArgument, match="denominator"):
        recall_at(RANKED, RELEVANT, 2, denominator="k")


@st.composite
def score_tables(draw):
    users, items = draw(st.integers(0, 4)), draw(st.integers(0, 10))
    value = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 2.0, math.inf])
    scores = np.array(draw(st.lists(value, min_size=users * items, max_size=users * items))).reshape(users, items)
    cells = draw(st.sampled_from([None, items, users * items]))
    allowed = None if cells is None else np.array(draw(st.lists(st.booleans(), min_size=cells, max_size=cells)), bool)
    if allowed is not None and cells != items:
        allowed = allowed.reshape(users, items)
    return scores, draw(st.integers(1, 12)), allowed


@settings(deadline=None, max_examples=300)
@given(score_tables())
def test_top_k_is_a_sort_of_the_allowed_scores_with_ties_by_row(case):
    scores, k, allowed = case
    ranked = top_k(scores, k, allowed)
    assert ranked.shape == (len(scores), k)
    assert ranked.dtype == np.int64
    for user, row in enumerate(scores):
        mask = [True] * len(row) if allowed is None else np.broadcast_to(allowed, scores.shape)[user]
        best = sorted((item for item in range(len(row)) if mask[item]), key=lambda item: (-row[item], item))[:k]
        assert ranked[user].tolist() == best + [-1] * (k - len(best))


def test_top_k_ranks_unsigned_and_boolean_scores_too():
    assert top_k(np.array([[0, 2, 1]], np.uint8), 3).tolist() == [[1, 2, 0]]
    assert top_k(np.array([[False, True]]), 2).tolist() == [[1, 0]]


def test_top_k_refuses_what_has_no_order():
    scores = np.array([[0.0, NAN]])
    assert top_k(scores, 2, np.array([True, False])).tolist() == [[0, -1]]
    with pytest.raises(InvalidArgument, match="user 0 hold NaN"):
        top_k(scores, 2)
    with pytest.raises(InvalidArgument, match="k must be at least 1"):
        top_k(scores, 0)
    with pytest.raises(InvalidArgument, match="allowed"):
        top_k(scores, 1, np.array([True]))
    with pytest.raises(InvalidArgument, match="scores must be"):
        top_k(scores[0], 1)


def pairs_in_order(labels, scores):
    """AUC by its O(n^2) definition."""
    pairs = [
        (a, b)
        for a, y in zip(scores, labels, strict=True)
        for b, z in zip(scores, labels, strict=True)
        if y == 1 and z == 0
    ]
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs) if pairs else NAN


JUDGED = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([-1.5, 0.0, 0.25, 3.0]), st.sampled_from([5, -2, 9])),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=300)
@given(JUDGED)
def test_auc_is_the_share_of_pairs_in_order(rows):
    labels, scores, groups = (np.array(column) for column in zip(*rows, strict=True))
    assert auc(labels, scores) == pytest.approx(pairs_in_order(labels, scores), nan_ok=True)
    expected = [pairs_in_order(labels[groups == g], scores[groups == g]) for g in sorted(set(groups.tolist()))]
    np.testing.assert_allclose(auc_per_user(labels, scores, groups), expected)


def test_auc_by_hand():
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1])
    assert auc(labels, scores) == 3.5 / 4
    assert auc(labels, -scores) == 0.5 / 4
    # Scores that separate within each user, but not across users.
    assert auc_per_user(labels, np.array([2, 1, 9, 8]), np.array([0, 0, 1, 1])).tolist() == [1, 1]
    assert auc(labels, np.array([2, 1, 9, 8])) == 0.75


def test_log_loss_by_hand():
    assert log_loss(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert log_loss(np.array([1, 0]), np.array([0.0, 1.0])) == pytest.approx(-math.log(1e-7))
    assert log_loss(np.array([1]), np.array([1.0], np.float32)) == pytest.approx(1e-7)


def test_calibration_error_by_hand():
    # Two bins: (0.1, 0.3) with labels (0, 1) and (0.6, 0.8) with labels (1, 1): gaps 0.3 and 0.3.
    labels, p = np.array([1, 1, 0, 1]), np.array([0.8, 0.3, 0.1, 0.6])
    assert expected_calibration_error(labels, p, bins=2) == pytest.approx(0.3)
    # One bin: mean probability 0.45, mean label 0.75.
    assert expected_calibration_error(labels, p, bins=1) == pytest.approx(0.3)
    # More bins than rows: every row by itself.
    assert expected_calibration_error(labels, p) == pytest.approx((0.2 + 0.7 + 0.1 + 0.4) / 4)


def test_a_constant_probability_is_judged_by_the_overall_share_whatever_the_order_of_rows():
    labels, p = np.repeat([0, 1], [30, 10]), np.full(40, 0.25)
    assert expected_calibration_error(labels, p) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(labels[::-1], p) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(labels, p + 0.5) == pytest.approx(0.5)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 20), st.randoms(use_true_random=False))
def test_calibration_error_is_its_definition_where_probabilities_differ(n, bins, random):
    p = [(i + 0.5) / n for i in random.sample(range(n), n)]
    labels = [random.randint(0, 1) for _ in range(n)]
    rows = sorted(zip(p, labels, strict=True))
    size, larger = divmod(n, min(bins, n))
    total, start = 0.0, 0
    for b in range(min(bins, n)):
        part = rows[start : start + size + (b < larger)]
        start += len(part)
        total += len(part) / n * abs(sum(q for q, _ in part) / len(part) - sum(y for _, y in part) / len(part))
    assert expected_calibration_error(np.array(labels), np.array(p), bins) == pytest.approx(total, abs=1e-9)


def test_rating_errors_by_hand():
    labels, predictions = np.array([1.0, 4.0, 5.0]), np.array([2.0, 4.0, 3.0], np.float32)
    assert rmse(labels, predictions) == pytest.approx(math.sqrt(5 / 3))
    assert mae(labels, predictions) == 1.0


@given(st.integers(0, 99))
def test_a_weight_counts_like_so_many_rows(seed):
    random = np.random.default_rng(seed)
    labels, p, weights = random.integers(0, 2, 9), random.random(9), random.integers(0, 4, 9)
    if not weights.any():
        return
    repeated = np.repeat(np.arange(9), weights)
    assert log_loss(labels, p, weights) == pytest.approx(log_loss(labels[repeated], p[repeated]))


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0]])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(InvalidArgument):
        log_loss(np.array([0, 1]), np.array([0.5, 0.5]), np.array(weights))


def test_values_are_compared_bin_by_bin_in_their_own_unit():
    points = value_reliability(np.array([0, 4, 0, 60]), np.array([1.0, 2.0, 10.0, 30.0]), bins=2)
    assert (points.predicted.tolist(), points.observed.tolist(), points.counts.tolist()) == ([1.5, 20], [2, 30], [2, 2])
    assert points.error == pytest.approx(5.25)


@pytest.mark.parametrize("metric", [auc, log_loss, expected_calibration_error, rmse, mae])
def test_metrics_over_rows_refuse_what_they_cannot_judge(metric):
    with pytest.raises(InvalidArgument, match="n >= 1"):
        metric(np.array([]), np.array([]))
    with pytest.raises(InvalidArgument, match="n >= 1"):
        metric(np.array([0, 1]), np.array([0.5]))
    with pytest.raises(InvalidArgument, match="finite"):
        metric(np.array([0, 1]), np.array([0.5, NAN]))


def test_probabilities_and_labels_are_checked():
    for metric in (log_loss, expected_calibration_error):
        with pytest.raises(InvalidArgument, match="sigmoid"):
            metric(np.array([0, 1]), np.array([-0.1, 2.0]))
    for metric in (auc, log_loss, expected_calibration_error):
        with pytest.raises(InvalidArgument, match="labels must be 0 or 1"):
            metric(np.array([0, 5]), np.array([0.1, 0.2]))
    with pytest.raises(InvalidArgument, match="bins"):
        expected_calibration_error(np.array([0]), np.array([0.1]), bins=0)
    with pytest.raises(InvalidArgument, match="groups"):
        auc_per_user(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1]))


def test_the_interval_lies_around_the_mean_and_follows_from_its_seed():
    values = np.random.default_rng(0).random(200)
    interval = bootstrap_interval(values, seed=7)
    assert interval.low < interval.mean < interval.high
    assert interval.mean == values.mean()
    assert interval.n == 200
    assert interval == bootstrap_interval(values, seed=7)
    assert interval != bootstrap_interval(values, seed=8)
    narrow = bootstrap_interval(values, seed=7, level=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


def test_the_interval_has_the_width_that_theory_gives():
    values = np.random.default_rng(1).normal(size=2500)
    interval = bootstrap_interval(values, seed=0)
    normal = 2 * 1.959964 * values.std() / math.sqrt(2500)
    assert interval.high - interval.low == pytest.approx(normal, rel=0.1)


def test_values_that_are_nan_do_not_count():
    values = np.random.default_rng(0).random(50)
    gaps = np.insert(values, [0, 10, 50], NAN)
    assert bootstrap_interval(gaps, seed=1) == bootstrap_interval(values, seed=1)
    nobody = bootstrap_interval(np.array([NAN]), seed=1)
    assert nobody.n == 0
    assert math.isnan(nobody.mean) and math.isnan(nobody.low) and math.isnan(nobody.high)


def test_equal_values_leave_no_doubt():
    assert bootstrap_interval(np.full(9, 0.25), seed=0) == Interval(0.25, 0.25, 0.25, 9)


def test_many_users_are_resampled_in_blocks():
    """More than one block of draws: the interval is still that of `resamples` means."""
    values = np.random.default_rng(2).normal(size=500_000)
    interval = bootstrap_interval(values, seed=0, resamples=40)
    assert interval.low < values.mean() < interval.high


def test_the_paired_interval_sees_a_difference_that_the_single_ones_hide():
    random = np.random.default_rng(3)
    a = random.random(300)
    b = a - 0.01 + random.normal(scale=0.005, size=300)
    single_a, single_b = bootstrap_interval(a, seed=0), bootstrap_interval(b, seed=0)
    assert single_a.low < single_b.high
    difference = paired_interval(a, b, seed=0)
    assert 0 < difference.low < difference.mean < difference.high
    assert difference.mean == pytest.approx(a.mean() - b.mean())
    assert paired_interval(b, a, seed=0).mean == -difference.mean
    assert paired_interval(np.append(a, NAN), np.append(b, 1.0), seed=0) == difference


def test_intervals_refuse_senseless_arguments():
    values = np.ones(3)
    with pytest.raises(InvalidArgument, match="resamples"):
        bootstrap_interval(values, seed=0, resamples=0)
    with pytest.raises(InvalidArgument, match="level"):
        bootstrap_interval(values, seed=0, level=1.0)
    with pytest.raises(InvalidArgument, match="same users"):
        paired_interval(values, np.ones(2), seed=0)
