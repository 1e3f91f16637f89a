"""Batches of histories: each item asked for once, never given away; the same queries as the padded encoder's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Role
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.training.distributed import World
from feast_recsys.models.training.loop import Run
from feast_recsys.models.training.seeds import seeded
from feast_recsys.models.two_tower.examples import Leftouts, TwoTowerScorer
from feast_recsys.models.two_tower.negatives import Correction
from feast_recsys.models.two_tower.towers import ItemEncoder, TwoTowerConfig, build_ids_two_tower
from feast_recsys.models.two_tower.train import Fitted, fit_source

CATALOGUE = 12
IDS = TwoTowerConfig(
    dimension=6, hidden=0, dropout=0.0, history_dropout=0.0, id_dropout=0.0, batch=8, in_batch=False, uniform=6,
    popular=6, learning_rate=0.03, decay=1.0, correction="negatives", epochs=6, patience=0,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


lists = st.lists(
    st.lists(st.integers(0, CATALOGUE - 1), unique=True, max_size=7), min_size=1, max_size=6
).filter(any)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(lists=lists, targets=st.integers(1, 4), batch=st.integers(1, 20), seed=st.integers(0, 99))
def test_an_epoch_asks_for_every_item_once_given_the_others(
    lists: list[list[int]], targets: int, batch: int, seed: int
) -> None:
    histories = from_lists(lists, CATALOGUE)
    encoders = {role: module.eval() for role, module in build_ids_two_tower(CATALOGUE, IDS).items()}
    asked: list[tuple[int, int]] = []
    for part in Leftouts(histories, batch, targets).epoch(np.random.default_rng(seed)):
        users = part.asked[part.owners]
        asked += zip(users.tolist(), part.targets.tolist(), strict=True)
        queries = part.queries(encoders)
        for n, user in enumerate(part.asked.tolist()):
            wanted = part.targets[part.owners == n].tolist()
            assert 1 <= len(wanted) <= targets
            rest = [item + 1 for item in lists[user] if item not in wanted]
            expected = encoders[Role.QUERY_ENCODER](history=torch.tensor([rest or [0]]))
            assert torch.allclose(queries[n], expected[0], atol=1e-5)
    assert sorted(asked) == sorted((user, item) for user, items in enumerate(lists) for item in items)


def test_history_dropout_leaves_out_some_of_the_others_only() -> None:
    histories = from_lists([[0, 1, 2, 3, 4, 5, 6, 7]], CATALOGUE)
    encoders = build_ids_two_tower(CATALOGUE, IDS)
    every = {
        tuple(np.round(query, 4))
        for dropout in (0.0, 0.5)
        for part in Leftouts(histories, 8, 1, dropout).epoch(np.random.default_rng(0))
        for query in part.queries(encoders).detach().numpy().tolist()
    }
    assert len(every) > 8
    gone = next(iter(Leftouts(histories, 8, 1, 1.0).epoch(np.random.default_rng(0)))).queries(encoders)
    nothing = encoders[Role.QUERY_ENCODER](history=torch.zeros(1, 1, dtype=torch.int64))
    assert torch.allclose(gone, nothing.expand_as(gone), atol=1e-5)


def test_hardest_are_the_best_scored_that_the_user_does_not_have() -> None:
    lists = [[0, 1, 2], [5], [], [3, 4, 8, 9]]
    histories = from_lists(lists, CATALOGUE)
    encoders = {role: module.eval() for role, module in build_ids_two_tower(CATALOGUE, IDS).items()}
    scores = TwoTowerScorer(encoders).score(histories, np.arange(4))
    found = Leftouts(histories, 8).hardest(encoders, 3, 1)
    for user, mine in enumerate(lists):
        order = [item for item in np.argsort(-scores[user]).tolist() if item not in mine]
        assert found[user].tolist() == order[1:4]


def test_scores_are_those_of_the_padded_encoders() -> None:
    histories = from_lists([[3, 1], [], [7, 8, 9]], CATALOGUE)
    encoders = {role: module.eval() for role, module in build_ids_two_tower(CATALOGUE, IDS).items()}
    rows, _ = histories.padded([2, 0, 1])
    queries = encoders[Role.QUERY_ENCODER](history=torch.from_numpy(rows))
    vectors = encoders[Role.ITEM_ENCODER](item=torch.arange(1, CATALOGUE + 1))
    scores = TwoTowerScorer(encoders).score(histories, np.array([2, 0, 1]))
    assert scores == pytest.approx((queries @ vectors.T).detach().numpy(), abs=1e-5)


def two_tastes() -> Histories:
    """Forty users: some have even items, some odd ones."""
    random = np.random.default_rng(0)
    return from_lists([random.choice(np.arange(user % 2, 12, 2), 4, replace=False) for user in range(40)], CATALOGUE)


def fit(histories: Histories, config: TwoTowerConfig, seed: int = 0) -> Fitted:
    with seeded(seed):
        encoders = build_ids_two_tower(CATALOGUE, config)
    return fit_source(encoders, Leftouts(histories, config.batch, config.targets), config, Run(seed=seed))


@pytest.mark.parametrize(
    ("correction", "changes"),
    [
        ("none", {}),
        ("negatives", {}),
        ("all", {"in_batch": True}),
        ("negatives", {"hard": 2, "hard_pool": 3, "hard_every": 2}),
        ("negatives", {"targets": 2}),
        ("negatives", {"hidden": 8}),
        ("negatives", {"bias": True}),
    ],
)
def test_tastes_are_learned_whatever_the_negatives(correction: Correction, changes: dict[str, int]) -> None:
    histories = two_tastes()
    config = TwoTowerConfig(**{**vars(IDS), "correction": correction, "epochs": 8, **changes})
    scores = TwoTowerScorer(fit(histories, config).encoders).score(
        from_lists([[0, 2], [1, 3]], CATALOGUE), np.arange(2)
    )
    even, odd = scores[:, 4::2].mean(axis=1), scores[:, 5::2].mean(axis=1)
    assert even[0] > odd[0] + 0.2
    assert odd[1] > even[1] + 0.2


def test_a_bias_learns_who_is_liked_by_everybody() -> None:
    histories = from_lists([[0, 1, 2 + user % 8] for user in range(80)], CATALOGUE)
    encoders = fit(histories, TwoTowerConfig(**{**vars(IDS), "bias": True, "epochs": 8})).encoders
    item = encoders[Role.ITEM_ENCODER]
    assert isinstance(item, ItemEncoder) and item.biases is not None
    biases = item.biases.weight.detach()[:, 0].numpy()
    assert biases[1:3].min() > biases[3:].max()
    assert biases[0] == biases[1:].min()  # of an unknown item


def test_the_same_seed_gives_the_same_weights() -> None:
    config = TwoTowerConfig(**{**vars(IDS), "hard": 1, "hard_pool": 3, "hard_every": 2})
    one, again, other = (fit(two_tastes(), config, seed).encoders for seed in (1, 1, 2))
    weights = [[p.detach() for p in e[Role.QUERY_ENCODER].parameters()] for e in (one, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="no likes"):
        fit(from_lists([[], []], CATALOGUE), IDS)


def test_histories_are_for_one_process() -> None:
    batch = next(iter(Leftouts(two_tastes(), 8).epoch(np.random.default_rng(0))))
    with pytest.raises(InvalidSettings, match="one process"):
        batch.share(World(0, 2))
