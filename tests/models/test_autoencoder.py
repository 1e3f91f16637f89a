"""The autoencoder of ratings: what is missing does not count, and what is served ranks as its predictions do."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.export import export_model
from feast_recsys.models.autoencoders.bags import latent
from feast_recsys.models.autoencoders.deep import (
    Centring,
    DeepAutoencoderConfig,
    DeepAutoencoderQuery,
    build_deep_autoencoder,
)
from feast_recsys.models.autoencoders.deep_training import fit_deep_autoencoder, predict
from feast_recsys.models.autoencoders.multinomial import MultDaeConfig, build_mult_dae
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.training.configure import restore
from feast_recsys.models.training.loop import Course, Run

N = 10
CONFIG = DeepAutoencoderConfig(
    layers=(12, 6), damping=1.0, input_dropout=0.2, code_dropout=0.1, weight_decay=0.01, learning_rate=0.01, batch=8,
    epochs=40,
)  # fmt: skip


def two_tastes(users: int = 40, rated: int = 7) -> Histories:
    """Even users give 5 to the first half and 1 to the second, odd ones the other way round; `rated` items each."""
    random = np.random.default_rng(0)
    items = np.concatenate([random.permutation(N)[:rated] for _ in range(users)])
    owners = np.repeat(np.arange(users), rated)
    likes = (items < N // 2) == (owners % 2 == 0)
    return Histories.from_pairs(owners, items, N, np.where(likes, 5.0, 1.0), size=users)


def fitted(**changes: object) -> tuple[Encoders, Course]:
    return fit_deep_autoencoder(two_tastes(), replace(CONFIG, **changes), Run())  # type: ignore[arg-type]


@cache
def trained() -> Encoders:
    return fitted()[0]


def query_of(encoders: Encoders) -> DeepAutoencoderQuery:
    assert isinstance(encoders.query, DeepAutoencoderQuery)
    return encoders.query


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True},
        {"refeeding": True},
        {"activation": "selu", "activate_last": True},
        {"normalise": True, "presence": True},
        {"normalise": True, "damping": 0.0},
        {"centring": "none", "layers": (12,), "activation": "sigmoid"},
        {"centring": "global"},
        {"centring": "user", "tied": True, "refeeding": True},
    ],
)
def test_learns_what_was_not_rated_from_what_was(changes: dict[str, object]) -> None:
    histories = two_tastes()
    encoders, course = fitted(**changes)
    missing = np.argwhere(histories.matrix().toarray() == 0)
    likes = (missing[:, 1] < N // 2) == (missing[:, 0] % 2 == 0)
    predicted = predict(encoders, histories, missing[:, 0], missing[:, 1])
    assert course.losses[-1] < course.losses[0] / 2
    assert predicted[likes].mean() - predicted[~likes].mean() > 2.5


@pytest.mark.parametrize("centring", ["none", "global", "user", "baseline"])
def test_what_is_taken_off_follows_from_the_ratings(centring: Centring) -> None:
    histories = two_tastes()
    encoders, _ = fit_deep_autoencoder(histories, replace(CONFIG, centring=centring), Run(), epochs=1)
    query = query_of(encoders)
    assert histories.ratings is not None
    mean = 0.0 if centring == "none" else float(histories.ratings.mean())
    item = np.zeros(N)
    if centring == "baseline":
        for n in range(N):
            mine = histories.ratings[histories.items == n]
            item[n] = (mine - mean).sum() / (len(mine) + 1.0)
    rows, ratings = torch.tensor([[3, 1, 0], [0, 0, 0]]), torch.tensor([[5.0, 1.0, 3.0], [4.0, 0.0, 2.0]])
    left = np.array([1.0, 5.0]) - mean - item[[0, 2]]  # rows ascend
    user = left.sum() / 3.0 if centring in ("user", "baseline") else 0.0
    taken, found, values, counts = query.centre(rows, ratings)
    assert found[0].tolist() == [0, 1, 3]
    np.testing.assert_allclose(taken[:, 0], [mean + user, mean], atol=1e-5)
    np.testing.assert_allclose(values[0], [0.0, *(left - user)], atol=1e-5)
    assert values[1].tolist() == [0.0, 0.0, 0.0]
    assert counts.tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


def test_the_loss_is_over_observed_ratings_only() -> None:
    histories = two_tastes()
    config = replace(
        CONFIG, normalise=True, presence=True, input_dropout=0.0, code_dropout=0.0, learning_rate=0.0, weight_decay=0.0
    )
    encoders, course = fit_deep_autoencoder(histories, config, Run(), epochs=1)
    query = query_of(encoders)
    rows, ratings = histories.padded(np.arange(40))
    assert ratings is not None
    given = (torch.from_numpy(rows), torch.from_numpy(ratings))
    with torch.no_grad():
        outputs = query(*given) @ torch.from_numpy(encoders.vectors(N)).T + query.centre(*given)[0]
    errors = outputs.numpy()[histories.users, histories.items] - histories.ratings
    assert course.losses[0] == pytest.approx(float(np.mean(errors**2)), rel=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("presence", [False, True])
def test_the_first_layer_reads_how_and_which_items_were_rated(normalise: bool, presence: bool) -> None:
    encoders, _ = fitted(normalise=normalise, presence=presence, layers=(12,), activation="identity", epochs=2)
    query, counts = query_of(encoders), 2
    rows, ratings = torch.tensor([[3, 1, 0]]), torch.tensor([[5.0, 1.0, 3.0]])
    _, found, values, _ = query.centre(rows, ratings)
    weights = values * np.sqrt((7 + 1.0) / (counts + 1.0)) if normalise else values  # an average user rated seven
    expected = query.bag.bias + sum(w * query.bag.table.weight[r] for w, r in zip(weights[0], found[0], strict=True))
    if presence:
        assert query.present is not None
        table = query.present.table.weight
        expected = expected + query.present.bias + (table[3] + table[1]) / np.sqrt(counts + 1.0)
    torch.testing.assert_close(query.code(rows, ratings)[0], expected)


def test_presence_tells_nothing_where_it_is_off() -> None:
    query = query_of(fitted(presence=False, epochs=2)[0])
    middling = float(query.middle + query.offsets[3])
    with torch.no_grad():
        rated = query(torch.tensor([[3]]), torch.tensor([[middling]]))
        nothing = query(torch.tensor([[0]]), torch.tensor([[0.0]]))
    torch.testing.assert_close(rated, nothing)


def test_a_second_rating_of_an_item_a_missing_one_and_padding_do_not_count() -> None:
    query = trained().query
    with torch.no_grad():
        plain = query(torch.tensor([[4, 2]]), torch.tensor([[5.0, 1.0]]))
        other = query(torch.tensor([[4, 2, 4, 7, 0]]), torch.tensor([[5.0, 1.0, 2.0, 0.0, 3.0]]))
        short = query(torch.tensor([[4, 2, 7]]), torch.tensor([[5.0, 1.0]]))
        long = query(torch.tensor([[4, 2]]), torch.tensor([[5.0, 1.0, 3.0]]))
    for one in (other, short, long):
        torch.testing.assert_close(plain, one)


def test_ratings_outside_the_scale_count_as_its_ends_and_predictions_stay_inside() -> None:
    encoders = trained()
    with torch.no_grad():
        far = encoders.query(torch.tensor([[4, 2]]), torch.tensor([[1e30, -1e30]]))
        end = encoders.query(torch.tensor([[4, 2]]), torch.tensor([[5.0, 1.0]]))
    torch.testing.assert_close(far, end)
    predicted = predict(encoders, two_tastes(), np.repeat(np.arange(40), N), np.tile(np.arange(N), 40))
    assert predicted.min() >= 1
    assert predicted.max() <= 5


def test_retrieval_ranks_as_predictions_do() -> None:
    encoders, _ = fitted(activation="selu", activate_last=True)
    histories = two_tastes(6)
    scores = encoders.score(histories, np.arange(6))
    query = query_of(encoders)
    query.scale.copy_(torch.tensor([-100.0, 100.0]))  # nothing is clipped
    predicted = predict(encoders, histories, np.repeat(np.arange(6), N), np.tile(np.arange(N), 6)).reshape(6, N)
    np.testing.assert_array_equal(np.argsort(-scores, axis=1), np.argsort(-predicted, axis=1))


def test_nobody_known_gets_about_the_means() -> None:
    histories = Histories.from_pairs([], [], N, np.empty(0, np.float32), size=1)
    predicted = predict(trained(), histories, np.zeros(N, np.int64), np.arange(N))
    assert np.isfinite(predicted).all()
    assert abs(predicted.mean() - 3.0) < 1.0


def test_tied_weights_are_the_encoders() -> None:
    encoders, _ = fitted(tied=True)
    query = query_of(encoders)
    np.testing.assert_array_equal(encoders.vectors(N)[:, :-1], query.bag.table.weight[1:].detach().numpy())
    assert len(query.decoder.weights) == 0


def test_refeeding_draws_the_output_to_a_fixed_point() -> None:
    def moved(encoders: Encoders) -> float:
        query, vectors = query_of(encoders), torch.from_numpy(encoders.vectors(N))
        rows, ratings = two_tastes().padded(np.arange(40))
        assert ratings is not None
        with torch.no_grad():
            once = query(torch.from_numpy(rows), torch.from_numpy(ratings)) @ vectors.T
            again = query.dense(once) @ vectors[:, :-1].T + vectors[:, -1]
        return float((again - once).square().mean())

    assert moved(fitted(refeeding=True)[0]) < moved(trained())


def test_codes_are_the_bottleneck() -> None:
    assert latent(trained(), two_tastes(5)).shape == (5, 6)


def test_weights_load_into_what_build_gives() -> None:
    fresh = build_deep_autoencoder(N, restore(DeepAutoencoderConfig, asdict(CONFIG)))
    fresh.query.load_state_dict(trained().query.state_dict())
    fresh.item.load_state_dict(trained().item.state_dict())
    asked = (two_tastes(), np.arange(N), np.arange(N))
    np.testing.assert_array_equal(predict(fresh, *asked), predict(trained(), *asked))


@pytest.mark.parametrize("ratings", [None, [0.0, 1.0], [np.nan, 1.0]])
def test_ratings_that_can_not_be_learned_from_are_refused(ratings: list[float] | None) -> None:
    with pytest.raises(InvalidSettings, match="ratings"):
        fit_deep_autoencoder(Histories.from_pairs([0, 1], [0, 1], N, ratings), CONFIG, Run())


def test_misuse_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="layers"):
        build_deep_autoencoder(N, replace(CONFIG, layers=()))
    with pytest.raises(InvalidArgument, match="needs the ratings"):
        trained().query(torch.ones(1, 1, dtype=torch.int64))
    with pytest.raises(InvalidArgument, match="only deep autoencoders"):
        predict(build_mult_dae(N, MultDaeConfig()), two_tastes(), [0], [0])


class _Query(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, history: Tensor, ratings: Tensor) -> Tensor:
        vectors: Tensor = self.encoder(history, ratings)
        return vectors


class _Item(nn.Module):
    def __init__(self, items: nn.Module) -> None:
        super().__init__()
        self.items = items

    def forward(self, item: Tensor) -> Tensor:
        vectors: Tensor = self.items(item)
        return vectors


def test_what_is_served_is_exported(tmp_path: Path) -> None:
    encoders, _ = fitted(tied=True, normalise=True, presence=True)
    keys = Vocabulary(tuple(range(100, 100 + N)))
    history = Input("history", "user:items", Side.USER, DType.INT64, max_length=7, vocabulary="items.json")
    ratings = Input("ratings", "user:ratings", Side.USER, DType.FLOAT32, max_length=7, pad=0.0, default=0.0)
    item = Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json")
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (history, ratings), "query"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (item,), "vector"),
    }
    signature = Signature("m", Stage.RETRIEVAL, graphs, dimension=13)
    modules = {Role.QUERY_ENCODER: _Query(encoders.query), Role.ITEM_ENCODER: _Item(encoders.item)}
    export_model(modules, signature, {"items.json": keys}, tmp_path / "m")
    _, loaded = load_model(tmp_path / "m")
    feed = {
        "history": np.array([[100, 101, 101], [0, 0, 0]]),
        "ratings": np.array([[5.0, 1.0, 2.0], [0.0, 0.0, 0.0]], np.float32),
    }
    query = loaded["query_encoder"].run(feed)
    vectors = loaded["item_encoder"].run({"item": np.arange(100, 100 + N)})
    known = Histories.from_pairs([0, 0], [0, 1], N, [5.0, 1.0], size=2)
    np.testing.assert_allclose(query @ vectors.T, encoders.score(known, [0, 1]), atol=1e-4)
