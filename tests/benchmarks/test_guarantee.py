"""The guarantee of filtered retrieval over every kind of index; `benchmarks.retrieval.guarantee` runs more cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.retrieval.cases import build_catalogue, generate, judge
from benchmarks.retrieval.guarantee import open_kind, report, run

from feast_recsys.bundle.filter_plan import evaluate
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import candidates
from feast_recsys.bundle.index.spec import KINDS

CASES = 200
INSTALLED = {"exact"} | {spec.kind for spec in candidates(1500, 8)}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return build_catalogue(tmp_path_factory.mktemp("catalogue"), 1500, 8, np.random.default_rng(2))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in INSTALLED])
def test_as_many_as_are_eligible_come_back_and_no_other(catalogue, kind, tmp_path):
    random = np.random.default_rng(3)
    index = open_kind(kind, catalogue, tmp_path, random)
    outcomes = run(catalogue, {kind: index}, CASES, random)[kind]
    assert [outcome.wrong for _, outcome in outcomes if outcome.wrong] == []
    if kind == "exact":
        assert {outcome.recall for _, outcome in outcomes} == {1.0}
    assert kind in report({kind: outcomes})


@pytest.mark.parametrize("kind", ["exact", "ivf_flat", "hnsw"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_they_do_by_every_metric_from_an_index_that_was_carried_on(catalogue, kind, metric, tmp_path):
    random, of_metric = np.random.default_rng(3), replace(catalogue, metric=metric)
    index = open_kind(kind, of_metric, tmp_path, random, carried=True)
    outcomes = run(of_metric, {kind: index}, CASES // 2, random)[kind]
    assert [outcome.wrong for _, outcome in outcomes if outcome.wrong] == []
    assert np.mean([outcome.recall for _, outcome in outcomes]) >= 0.99


def test_the_meaning_of_the_filters_was_found_without_the_code_that_is_checked(catalogue):
    random = np.random.default_rng(4)
    for _ in range(100):
        case = generate(catalogue, random)
        condition = case.eligibility.filter
        passing = np.ones(1500, np.bool_) if condition is None else evaluate(condition, catalogue.snapshot)
        out = catalogue.snapshot.rows(case.eligibility.exclude_item_ids)
        passing[out[out >= 0]] = False
        passing[case.seen] = False
        assert np.array_equal(passing, case.eligible)


WRONG = {
    "39 items instead of 40": lambda rows, scores: (rows[:, :-1], scores[:, :-1]),
    "a row that does not exist": lambda rows, scores: (np.append(rows[:, :-1], [[-1]], axis=1), scores),
    "an item twice": lambda rows, scores: (np.append(rows[:, :-1], rows[:, :1], axis=1), scores),
    "a score that is not that of the metric": lambda rows, scores: (rows, scores + 1),
    "an order that is not that of the scores": lambda rows, scores: (rows[:, ::-1], scores[:, ::-1]),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_violation_is_seen(catalogue, text):
    random = np.random.default_rng(5)
    case = next(c for c in iter(lambda: generate(catalogue, random), None) if c.eligible.all() and c.k > 40)
    case = replace(case, k=40, best=case.best[:40])
    answer = ExactIndex(catalogue.vectors).search(case.query, 40)
    assert judge(case, answer).wrong == ""
    assert judge(case, WRONG[text](*answer)).wrong == text


def test_an_item_that_must_not_come_back_is_seen(catalogue):
    random = np.random.default_rng(6)
    case = next(c for c in iter(lambda: generate(catalogue, random), None) if 40 < c.eligible.sum() < 200)
    answer = ExactIndex(catalogue.vectors).search(case.query, len(case.best))
    assert "must not come back" in judge(case, answer).wrong
