"""Mult-DAE and Mult-VAE: the likelihood is the defined one, a history is a set, and what is served is exported."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.export import export_model
from feast_recsys.models.autoencoders.bags import Bag, batches, latent
from feast_recsys.models.autoencoders.multinomial import (
    MultDaeConfig,
    MultVaeConfig,
    build_mult_dae,
    build_mult_vae,
    unit_row,
)
from feast_recsys.models.autoencoders.multinomial_training import fit_mult_dae, fit_mult_vae, multinomial_loss
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.retrieval.encoders import Encoders, HistoryEncoder, ItemVectors, distinct
from feast_recsys.models.training.configure import restore
from feast_recsys.models.training.loop import Run

N = 12
DAE = MultDaeConfig(latent=8, batch=16, epochs=25, learning_rate=0.02)
VAE = MultVaeConfig(hidden=(16,), latent=8, batch=16, epochs=25, learning_rate=0.02, annealing=10)


def two_tastes(users: int = 40) -> Histories:
    """Even users like items of the first half, odd ones those of the second; four of the six each."""
    random = np.random.default_rng(0)
    return from_lists([random.permutation(6)[:4] + 6 * (user % 2) for user in range(users)], N)


@cache
def trained(kind: str) -> Encoders:
    histories = two_tastes()
    return fit_mult_dae(histories, DAE, Run())[0] if kind == "dae" else fit_mult_vae(histories, VAE, Run())[0]


def untrained(kind: str) -> Encoders:
    torch.manual_seed(1)
    return build_mult_dae(N, DAE) if kind == "dae" else build_mult_vae(N, VAE)


both = pytest.mark.parametrize("kind", ["dae", "vae"])


@given(rows=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=4))
def test_a_history_is_a_set_scaled_to_length_one(rows: list[list[int]]) -> None:
    found, values = unit_row(torch.tensor(rows))
    dense = torch.zeros(len(rows), 5).scatter_add(1, found, values)
    for one, row in zip(dense.tolist(), rows, strict=True):
        items = set(row) - {0}
        assert one == pytest.approx([1 / math.sqrt(len(items)) if n in items else 0.0 for n in range(5)])


@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_of_equal_rows_the_first_counts(rows: list[int]) -> None:
    ordered, kept, places = distinct(torch.tensor([rows]))
    assert ordered[0].tolist() == sorted(rows)
    assert {places[0, n].item() for n in torch.nonzero(kept[0]).flatten()} == {rows.index(r) for r in set(rows) - {0}}


@given(seed=st.integers(0, 1000))
@settings(deadline=None)
def test_the_first_layer_is_linear_in_all_three_forms(seed: int) -> None:
    torch.manual_seed(seed)
    bag = Bag(5, 3)
    nn.init.normal_(bag.bias)
    rows, values = torch.tensor([[1, 3, 0], [0, 0, 0], [5, 2, 4]]), torch.randn(3, 3)
    values[rows == 0] = 0.0
    dense = torch.zeros(3, 6).scatter_add(1, rows, values)[:, 1:]
    expected = dense @ bag.table.weight[1:] + bag.bias
    torch.testing.assert_close(bag(rows, values), expected)
    torch.testing.assert_close(bag.dense(dense), expected)
    kept = rows != 0
    torch.testing.assert_close(bag.ragged(rows[kept], torch.tensor([0, 2, 2]), values[kept]), expected)


def test_the_loss_is_the_multinomial_likelihood() -> None:
    histories = from_lists([[0, 2], [1], [0, 1, 3]], 4)
    _, made = batches(histories, 3, np.random.default_rng(0), torch.device("cpu"))
    (batch,) = made
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(3, 4)
    x[batch.users, batch.rows - 1] = 1.0
    expected = -(torch.log_softmax(logits, 1) * x).sum(1).mean()
    torch.testing.assert_close(multinomial_loss(logits, batch), expected)


def test_a_batch_holds_each_user_with_items_once() -> None:
    histories = from_lists([[0], [], [1, 2], [3], []], 4)
    total, made = batches(histories, 2, np.random.default_rng(0), torch.device("cpu"))
    seen = [batch.rows[batch.users == n].tolist() for batch in made for n in range(len(batch))]
    assert total == 2
    assert sorted(seen) == [[1], [2, 3], [4]]


@both
def test_learns_whose_taste_it_is(kind: str) -> None:
    encoders = trained(kind)
    scores = encoders.score(from_lists([[0, 1], [7, 8]], N), [0, 1])
    assert scores[0, :6].min() > scores[0, 6:].max()
    assert scores[1, 6:].min() > scores[1, :6].max()


@both
def test_an_unknown_item_scores_as_the_least_likely_one(kind: str) -> None:
    table = trained(kind).item(torch.arange(N + 1)).detach()
    assert table[0, :-1].abs().max() == 0
    assert table[0, -1] == table[1:, -1].min()


@both
def test_an_empty_history_and_a_repeated_item_are_sensible(kind: str) -> None:
    encoders = trained(kind)
    with torch.no_grad():
        empty = encoders.query(torch.zeros(2, 3, dtype=torch.int64))
        once, twice = encoders.query(torch.tensor([[2, 5, 0]])), encoders.query(torch.tensor([[5, 2, 5]]))
    assert torch.isfinite(empty).all()
    torch.testing.assert_close(once, twice)
    assert (once[:, -1] == 1).all()


@both
def test_the_same_seed_gives_the_same_weights_and_another_other_ones(kind: str) -> None:
    fit, config = (fit_mult_dae, DAE) if kind == "dae" else (fit_mult_vae, VAE)
    one, two, three = (fit(two_tastes(), config, Run(seed=seed), epochs=2)[0].vectors(N) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - three).max() > 1e-3


@both
def test_keeps_the_best_epoch_and_takes_another_number_of_epochs(kind: str) -> None:
    fit, config = (fit_mult_dae, DAE) if kind == "dae" else (fit_mult_vae, VAE)
    seen: list[np.ndarray] = []

    def validate(encoders: Encoders) -> float:
        assert not encoders.query.training
        seen.append(encoders.vectors(N).copy())
        return [1.0, 3.0, 2.0][len(seen) - 1]

    encoders, course = fit(two_tastes(), config, Run(), validate=validate, epochs=3)
    assert (course.best, course.values) == (2, (1.0, 3.0, 2.0))
    np.testing.assert_array_equal(encoders.vectors(N), seen[1])
    again, _ = fit(two_tastes(), config, Run(), epochs=2)
    np.testing.assert_array_equal(again.vectors(N), seen[1])


@both
def test_weights_load_into_what_build_gives(kind: str) -> None:
    encoders, fresh = trained(kind), untrained(kind)
    config = restore(type(DAE) if kind == "dae" else type(VAE), asdict(DAE if kind == "dae" else VAE))
    assert config == (DAE if kind == "dae" else VAE)
    fresh.query.load_state_dict(encoders.query.state_dict())
    fresh.item.load_state_dict(encoders.item.state_dict())
    histories = two_tastes(4)
    np.testing.assert_array_equal(fresh.score(histories, [0, 1, 2, 3]), encoders.score(histories, [0, 1, 2, 3]))


def test_a_deep_mirrored_vae_ends_with_its_hidden_layer() -> None:
    config = MultVaeConfig(hidden=(16, 10), latent=4, mirrored=True, activation="elu", epochs=1)
    encoders, _ = fit_mult_vae(two_tastes(), config, Run())
    histories = two_tastes(3)
    assert encoders.vectors(N).shape == (N, 17)
    assert latent(encoders, histories).shape == (3, 4)


def test_z_is_the_mean_when_served() -> None:
    query = copy.deepcopy(untrained("vae").query)
    rows = torch.tensor([[1, 2]])
    torch.testing.assert_close(query(rows), query(rows))
    torch.testing.assert_close(query(rows)[:, :-1], query.code(rows))  # type: ignore[operator]


def test_codes_come_in_the_order_of_the_users() -> None:
    encoders = trained("dae")
    histories = from_lists([[0, 1, 2], [], [7], [3, 9]], N)
    found = latent(encoders, histories)
    for user in range(4):
        with torch.no_grad():
            vector = encoders.query(torch.from_numpy(histories.padded([user])[0]))[0]
        np.testing.assert_allclose(found[user], vector[:-1].numpy(), atol=1e-6)


def test_only_autoencoders_have_codes() -> None:
    class Other(HistoryEncoder):
        def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
            return torch.ones(len(history), 1)

    with pytest.raises(InvalidArgument, match="only autoencoders"):
        latent(Encoders(Other(), ItemVectors(N, 1)), two_tastes(2))


def test_nothing_to_learn_from_and_no_hidden_layer_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="nothing to train on"):
        fit_mult_dae(from_lists([[], []], N), DAE, Run())
    with pytest.raises(InvalidSettings, match="hidden"):
        build_mult_vae(N, MultVaeConfig(hidden=()))


class _Query(nn.Module):
    def __init__(self, encoder: HistoryEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, history: Tensor) -> Tensor:
        vectors: Tensor = self.encoder(history)
        return vectors


class _Item(nn.Module):
    def __init__(self, items: nn.Module) -> None:
        super().__init__()
        self.items = items

    def forward(self, item: Tensor) -> Tensor:
        vectors: Tensor = self.items(item)
        return vectors


@both
def test_what_is_served_is_exported(kind: str, tmp_path: Path) -> None:
    encoders = trained(kind)
    keys = Vocabulary(tuple(range(100, 100 + N)))
    history = Input("history", "user:items", Side.USER, DType.INT64, max_length=7, vocabulary="items.json")
    item = Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json")
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (history,), "query"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (item,), "vector"),
    }
    signature = Signature("m", Stage.RETRIEVAL, graphs, dimension=9)
    modules = {Role.QUERY_ENCODER: _Query(encoders.query), Role.ITEM_ENCODER: _Item(encoders.item)}
    export_model(modules, signature, {"items.json": keys}, tmp_path / "m")
    _, loaded = load_model(tmp_path / "m")
    query = loaded["query_encoder"].run({"history": np.array([[100, 101, 101], [0, 0, 0], [999, 107, 0]])})
    vectors = loaded["item_encoder"].run({"item": np.arange(100, 100 + N)})
    expected = encoders.score(from_lists([[0, 1], [], [7]], N), [0, 1, 2])
    np.testing.assert_allclose(query @ vectors.T, expected, atol=1e-4)
