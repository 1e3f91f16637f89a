"""Negatives come as often as they are said to, and the loss is that of its definition."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.models.two_tower.negatives import Columns, Sampler, sampled_softmax, top_negatives


def loss_by_loops(
    queries: list[list[float]],
    positives: list[list[float]],
    owners: list[int],
    targets: list[int],
    vectors: list[list[float]],
    items: list[int],
    log_expected: list[float],
    temperature: float,
    own: list[float] | None,
    hard: list[list[list[float]]] | None,
) -> float:
    def score(query: list[float], vector: list[float]) -> float:
        return sum(a * b for a, b in zip(query, vector, strict=True)) / temperature

    total = 0.0
    for n, (owner, vector) in enumerate(zip(owners, positives, strict=True)):
        query = queries[owner]
        wanted = {target for target, other in zip(targets, owners, strict=True) if other == owner}
        mine = score(query, vector) - (own[n] if own is not None else 0.0)
        others = [score(query, v) - log_expected[j] for j, v in enumerate(vectors) if items[j] not in wanted]
        others += [score(query, v) for v in (hard[owner] if hard is not None else [])]
        total += math.log(math.exp(mine) + sum(math.exp(value) for value in others)) - mine
    return total / len(owners)


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=6, unique=True),
    items=st.lists(st.integers(0, 4), max_size=7),
    temperature=st.floats(0.3, 2.0),
    correct_targets=st.booleans(),
    hard=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_loss_is_the_corrected_softmax_without_accidental_hits(
    pairs: list[tuple[int, int]], items: list[int], temperature: float, correct_targets: bool, hard: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    owners, targets = [owner for owner, _ in pairs], [target for _, target in pairs]
    queries, positives, vectors = normal(3, 4), normal(len(pairs), 4), normal(len(items), 4)
    log_expected, own, more = normal(len(items)), normal(len(pairs)), normal(3, hard, 4)
    loss = sampled_softmax(
        queries, positives, torch.tensor(owners), torch.tensor(targets), vectors,
        Columns(torch.tensor(items, dtype=torch.int64), log_expected), temperature=temperature,
        own=own if correct_targets else None, hard=more if hard else None,
    )  # fmt: skip
    expected = loss_by_loops(
        queries.tolist(), positives.tolist(), owners, targets, vectors.tolist(), items, log_expected.tolist(),
        temperature, own.tolist() if correct_targets else None, more.tolist() if hard else None,
    )  # fmt: skip
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_in_batch_loss_is_pytorchs_cross_entropy_of_corrected_logits() -> None:
    """Yi et al. (2019): with each target once in the batch, and its own column as the answer."""
    random = torch.Generator().manual_seed(4)
    queries, vectors = torch.randn(5, 3, generator=random), torch.randn(5, 3, generator=random)
    log_q, items = torch.randn(5, generator=random), torch.arange(5)
    loss = sampled_softmax(
        queries, vectors, torch.arange(5), items, vectors, Columns(items, log_q), temperature=0.5, own=log_q
    )
    logits = queries @ vectors.T / 0.5 - log_q
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, items).item(), abs=1e-5)


def test_a_batch_of_one_item_alone_has_nothing_to_learn() -> None:
    ones, items = torch.ones(3, 2, requires_grad=True), torch.tensor([5, 5, 5])
    owners = torch.arange(3)
    loss = sampled_softmax(
        ones, torch.ones(3, 2), owners, items, torch.ones(3, 2), Columns(items, torch.zeros(3)), temperature=0.1
    )
    loss.backward()
    assert loss.item() == 0.0
    assert ones.grad is not None and (ones.grad == 0.0).all()


@pytest.mark.parametrize(("uniform", "popular", "in_batch"), [(3, 0, 0), (0, 2, 0), (2, 3, 0), (1, 1, 4)])
def test_expected_counts_are_those_of_counting(uniform: int, popular: int, in_batch: int) -> None:
    """Every column counted: likes of the batch by enumeration of all draws, negatives by their distribution."""
    counts = np.array([6, 3, 1])
    sampler = Sampler.of_counts(counts, uniform=uniform, popular=popular)
    evenly, liked = [1 / 3] * 3, (counts / counts.sum()).tolist()
    columns = [evenly] * uniform + [liked] * (popular + in_batch)
    brute = np.zeros(3)
    for drawn in product(range(3), repeat=len(columns)):
        chance = math.prod(column[item] for column, item in zip(columns, drawn, strict=True))
        brute += chance * np.bincount(drawn, minlength=3)
    assert sampler.expected(np.arange(3), in_batch) == pytest.approx(brute)


def test_draws_come_as_often_as_expected() -> None:
    sampler = Sampler.of_counts([50, 30, 0, 15, 5], uniform=40, popular=60)
    random = np.random.default_rng(0)
    rounds = 2000
    found = np.mean([np.bincount(sampler.draw(random), minlength=5) for _ in range(rounds)], axis=0)
    expected = sampler.expected(np.arange(5), 0)
    # Four standard errors of a binomial count.
    assert np.abs(found - expected) == pytest.approx(0, abs=4 * math.sqrt(100 * 0.25 / rounds))
    assert found.sum() == 100


def test_the_corrected_sum_over_drawn_columns_is_that_over_the_catalogue_on_average() -> None:
    """What the correction is for, whatever the mixture."""
    random, n = np.random.default_rng(1), 8
    weights = random.uniform(0.5, 2.0, n)  # exp of scores
    sampler = Sampler.of_counts(random.integers(1, 50, n), uniform=6, popular=10)
    drawn = [sampler.draw(random) for _ in range(4000)]
    sums = np.array([(weights[items] / sampler.expected(items, 0)).sum() for items in drawn])
    assert sums.mean() == pytest.approx(weights.sum(), abs=4 * sums.std() / math.sqrt(len(sums)))


def test_items_that_nobody_liked_can_be_corrected() -> None:
    sampler = Sampler.of_counts([3, 0], uniform=0, popular=4)
    assert np.isfinite(np.log(sampler.expected(np.array([0, 1]), 2))).all()


@pytest.mark.parametrize(("uniform", "popular", "counts"), [(-1, 0, [1]), (0, -1, [1]), (1, 1, [])])
def test_impossible_samplers_are_refused(uniform: int, popular: int, counts: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        Sampler.of_counts(counts, uniform=uniform, popular=popular)


def test_hard_negatives_are_the_top_of_what_may_be_one() -> None:
    scores = torch.tensor([[0.1, 0.9, -torch.inf, 0.5, 0.7], [5.0, 4.0, 3.0, 2.0, -torch.inf]])
    assert top_negatives(scores, 2).tolist() == [[1, 4], [0, 1]]
    assert top_negatives(scores, 2, skip=1).tolist() == [[4, 3], [1, 2]]
    with pytest.raises(InvalidArgument, match="hard_pool"):
        top_negatives(scores, 4, skip=1)
