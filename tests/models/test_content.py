"""Vectors from content: the published network, learning from tones and numbers, and what is exported of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
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
from feast_recsys.features.audio import LogMel, log_mel
from feast_recsys.models.content.factors import FactorConfig, Factors, confidences, usage_factors
from feast_recsys.models.content.networks import (
    ContentTower,
    Convolutions,
    FactorQuery,
    Layers,
    NumbersTower,
    SoundTower,
    WarmOrContent,
)
from feast_recsys.models.content.training import (
    AudioConfig,
    DescriptorConfig,
    Usage,
    fit_numbers,
    fit_sound,
    join,
    number_vectors,
    sound_vectors,
)
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.training.loop import Run

SOUND = LogMel(rate=8000, n_fft=256, hop=128, mels=16, frames=24, windows=2)
SMALL = AudioConfig(widths=(16, 16), kernel=3, pools=(2,), dense=(32,), dropout=0.1, epochs=12, learning_rate=3e-3)
SHAPE = Convolutions(16, 24, 2, (8, 8), 3, (2,), (16,), 0.5, 4, popularity=True)


def made_factors(units: np.ndarray, counts: np.ndarray | None = None) -> Factors:
    n = len(units)
    counts = np.full(n, 9, np.int64) if counts is None else counts
    zeros = np.zeros(n, np.float32)
    return Factors(units.astype(np.float32), np.zeros((1, units.shape[1]), np.float32), counts, zeros, counts >= 5)


def two_tastes(users: int = 60, items: int = 20) -> Histories:
    """Users of even number have half of the even items, the others half of the odd ones."""
    random = np.random.default_rng(0)
    return from_lists(
        [np.sort(random.permutation(np.arange(u % 2, items, 2))[: items // 4]) for u in range(users)], items
    )


def test_the_published_sizes_have_the_published_parameters() -> None:
    tower = SoundTower(Convolutions())
    assert sum(p.numel() for p in tower.parameters()) == 9_393_704
    frames = []
    x = torch.zeros(1, 128, 599)
    for layer in tower.convolutions:
        x = layer(x)
        if not isinstance(layer, nn.ReLU):
            frames.append(x.shape[-1])
    assert frames == [596, 149, 146, 73, 70, 35, 32]
    assert tower.dense[0].in_features == 1536


def test_sound_vectors_are_the_mean_over_windows_made_unit() -> None:
    torch.manual_seed(0)
    tower = SoundTower(SHAPE).eval()
    windows = torch.rand(3, 2, 24, 16) * 10
    found = tower(windows.reshape(3, -1))
    single = torch.stack([tower.pieces(windows[:, n]) for n in range(2)]).mean(0)
    torch.testing.assert_close(found[:, :4], nn.functional.normalize(single[:, :4], dim=-1))
    torch.testing.assert_close(found[:, 4], single[:, 4])
    torch.testing.assert_close(found[:, :4].norm(dim=1), torch.ones(3))


def test_pooling_is_the_mean_the_largest_and_the_root_of_the_mean_square() -> None:
    tower = SoundTower(replace(SHAPE, dense=(), popularity=False)).eval()
    x = torch.rand(2, 24, 16) * 5
    maps = tower.convolutions(x.transpose(1, 2))
    pooled = torch.cat([maps.mean(2), maps.max(2).values, maps.norm(dim=2) / maps.shape[2] ** 0.5], 1)
    expected = nn.functional.normalize(tower.dense(pooled), dim=-1)
    torch.testing.assert_close(tower.pieces(x)[:, :4], expected, atol=1e-4, rtol=1e-3)


def test_gradients_of_silence_are_finite() -> None:
    tower = SoundTower(SHAPE)
    tower.pieces(torch.zeros(2, 24, 16)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in tower.parameters() if p.grad is not None)


def test_numbers_are_standardised_as_those_learned_from() -> None:
    random = np.random.default_rng(0)
    content = (random.normal(size=(50, 3)) * [1, 1000, 0] + [5, -200, 7]).astype(np.float32)
    units = random.normal(size=(50, 4))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    config = DescriptorConfig(hidden=(), epochs=1)
    tower = fit_numbers(made_factors(units), content, np.arange(40), config, Run())
    np.testing.assert_allclose(tower.mean.numpy(), content[:40].mean(0), rtol=1e-4)
    np.testing.assert_allclose(tower.scale.numpy()[:2], content[:40].std(0)[:2], rtol=1e-4)
    assert tower.scale[2] == 1.0


def test_factors_of_usage_have_unit_length_know_tastes_and_follow_from_the_seed() -> None:
    config = FactorConfig(dimension=4, threshold=10)
    plays = two_tastes()
    factors = usage_factors(plays, config, Run(seed=3))
    np.testing.assert_allclose(np.linalg.norm(factors.items, axis=1), 1.0, rtol=1e-5)
    similar = factors.items @ factors.items.T
    assert similar[0, 2::2].min() > similar[0, 1::2].max()
    np.testing.assert_array_equal(factors.items, usage_factors(plays, config, Run(seed=3)).items)
    assert factors.counts.tolist() == np.bincount(plays.items, minlength=20).tolist()
    np.testing.assert_array_equal(factors.trusted, factors.counts >= 10)


def test_an_item_without_usage_has_no_factor_and_no_usage_is_refused() -> None:
    plays = two_tastes(items=20)
    wider = Histories(plays.offsets, plays.items, 21)
    factors = usage_factors(wider, FactorConfig(dimension=4), Run())
    assert not factors.items[20].any()
    assert not factors.trusted[20]
    with pytest.raises(InvalidArgument, match="threshold"):
        usage_factors(plays, FactorConfig(threshold=1000), Run())


def test_a_small_network_hears_which_tone_belongs_to_which_factor() -> None:
    random = np.random.default_rng(0)
    low = np.arange(40) % 2 == 0
    pitches = np.where(low, random.uniform(300, 700, 40), random.uniform(1200, 2500, 40))
    mels = [
        log_mel(
            (0.3 * np.sin(2 * np.pi * f * np.arange(8000) / 8000) + random.normal(0, 0.01, 8000)).astype("f4"), SOUND
        )
        for f in pitches
    ]
    units = np.stack([low, ~low], 1).astype(np.float32)
    tower = fit_sound(made_factors(units), lambda row: mels[row], SOUND, np.arange(24), SMALL, Run())
    found = sound_vectors(tower, lambda row: mels[row], SOUND, np.arange(24, 40))[:, :2]
    right = found.argmax(1) == units[24:].argmax(1)
    assert right.mean() > 0.9
    again = fit_sound(made_factors(units), lambda row: mels[row], SOUND, np.arange(24), SMALL, Run())
    torch.testing.assert_close(again.state_dict(), tower.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        DescriptorConfig(hidden=(16,), epochs=40, learning_rate=1e-2),
        DescriptorConfig(hidden=(16,), epochs=60, learning_rate=0.3, optimizer="nesterov"),
        DescriptorConfig(hidden=(16,), epochs=40, learning_rate=1e-2, loss="wpe", popularity=0.1),
    ],
)
def test_numbers_tell_the_taste_of_new_items(config: DescriptorConfig) -> None:
    plays = two_tastes()
    known = np.arange(14)
    kept = plays.items < 14
    part = Histories.from_pairs(plays.users[kept], plays.items[kept], 20, size=60)
    factors = usage_factors(part, FactorConfig(dimension=4), Run())
    content = np.random.default_rng(1).normal(0, 0.2, (20, 3)).astype(np.float32)
    content[:, 0] += np.arange(20) % 2
    tower = fit_numbers(factors, content, known, config, Run(), usage=Usage(factors.users, part))
    encoders = join(factors, number_vectors(tower, content), tower)
    scores = (
        encoders.query(torch.from_numpy(part.padded([0, 1])[0]))
        @ encoders.item(torch.zeros(6, dtype=torch.int64), torch.from_numpy(content[14:])).T
    )
    assert scores[0, 0::2].min() > scores[0, 1::2].max()
    assert scores[1, 1::2].min() > scores[1, 0::2].max()


def test_the_weighted_error_needs_the_usage_and_learning_needs_items() -> None:
    factors = made_factors(np.eye(3))
    with pytest.raises(InvalidSettings, match="usage"):
        fit_numbers(factors, np.eye(3, dtype="f4"), [0], DescriptorConfig(loss="wpe"), Run())
    with pytest.raises(InvalidArgument, match="no items"):
        fit_numbers(factors, np.eye(3, dtype="f4"), [], DescriptorConfig(), Run())
    with pytest.raises(InvalidArgument, match="finite"):
        fit_numbers(factors, np.full((3, 2), np.nan, "f4"), [0], DescriptorConfig(), Run())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="frames"):
        Convolutions(frames=60)
    with pytest.raises(InvalidSettings, match="pools"):
        Convolutions(pools=(4,))
    with pytest.raises(InvalidSettings, match="optimizer"):
        AudioConfig(optimizer="lbfgs")  # type: ignore[arg-type]


def test_the_weighted_error_trusts_plays_as_the_factors_do() -> None:
    """One step of plain gradient descent on a linear map, against the formula written out."""
    random = np.random.default_rng(3)
    amounts = np.array([4.0, 1.0, 9.0, 2.0, 0.5], np.float32)
    plays = Histories.from_pairs([0, 0, 1, 1, 2], [0, 2, 0, 1, 1], 3, ratings=amounts, size=3)
    factors = replace(made_factors(np.eye(3)), users=random.normal(size=(3, 3)).astype("f4"))
    content = random.normal(size=(3, 4)).astype("f4")
    config = DescriptorConfig(hidden=(), epochs=1, optimizer="nesterov", learning_rate=0.1, weight_decay=0.0,
                              loss="wpe")  # fmt: skip
    usage = Usage(factors.users, plays, alpha=2.0, epsilon=0.5)
    start = fit_numbers(factors, content, [0, 1, 2], replace(config, learning_rate=1e-30), Run(), usage=usage)
    learned = fit_numbers(factors, content, [0, 1, 2], config, Run(), usage=usage)

    start.zero_grad()
    dense = plays.matrix(values=True).toarray()
    trust = 1.0 + 2.0 * np.log1p(dense / 0.5)
    off = (
        torch.from_numpy((dense > 0).astype("f4"))
        - torch.from_numpy(factors.users) @ start(torch.from_numpy(content))[:, :3].T
    )
    (torch.from_numpy(trust).float() * off.square()).mean().backward()
    last = start.dense[-1]
    # Nesterov's first step is 1 + momentum times the gradient.
    torch.testing.assert_close(learned.dense[-1].weight, last.weight - 0.19 * last.weight.grad, rtol=1e-4, atol=1e-6)


def test_confidence_of_a_play_follows_the_formula_of_its_settings() -> None:
    plays = Histories.from_pairs([0, 0, 1], [0, 2, 1], 3, ratings=np.array([4.0, 1.0, 9.0], np.float32), size=2)
    np.testing.assert_allclose(confidences(plays, 10.0, 0.0).toarray(), [[41, 0, 11], [0, 91, 0]])
    logs = 1.0 + 10.0 * np.log1p(np.array([[4, 0, 1], [0, 9, 0]]) / 0.5)
    np.testing.assert_allclose(confidences(plays, 10.0, 0.5).toarray(), np.where(logs > 1, logs, 0), rtol=1e-6)
    counted = replace(plays, ratings=None)
    np.testing.assert_allclose(confidences(counted, 2.0, 0.5).data, 1 + 2 * np.log(3), rtol=1e-6)
    with pytest.raises(InvalidArgument, match="at least 0"):
        confidences(replace(plays, ratings=np.array([1.0, -1.0, 1.0], np.float32)), 1.0, 0.0)


def served(weight: float = 0.5, *, predicted: bool = True) -> tuple[WarmOrContent, Tensor]:
    torch.manual_seed(0)
    tower = NumbersTower(Layers(5, (8,), 0.0, 3, popularity=predicted)).eval()
    units = nn.functional.normalize(torch.randn(7, 3), dim=1)
    vectors = torch.cat([units, torch.randn(7, 1)], 1)
    warm = torch.tensor([False, True, True, True, True, False, False])
    return WarmOrContent(vectors, warm, tower, weight).eval(), vectors


def test_warm_items_keep_their_factor_and_the_others_get_their_content() -> None:
    encoder, vectors = served()
    content = torch.randn(4, 5)
    found = encoder(torch.tensor([1, 5, 0, 5]), torch.cat([content[:3], torch.zeros(1, 5)]))
    scaled = torch.cat([vectors[:, :3], vectors[:, 3:] * 0.5, vectors[:, 3:]], 1)
    torch.testing.assert_close(found[0], scaled[1])
    heard = encoder.tower(content)
    torch.testing.assert_close(found[1:3, :3], heard[1:3, :3])
    torch.testing.assert_close(found[3], scaled[5])  # no content at hand: what it gave in training
    least, most = vectors[1:, 3].min(), vectors[1:, 3].max()
    torch.testing.assert_close(found[1:3, 4], heard[1:3, 3].clamp(least, most))
    torch.testing.assert_close(found[1:3, 3], found[1:3, 4] * 0.5)


def test_an_item_of_which_nothing_is_known_is_below_all_others() -> None:
    for weight, predicted in itertools.product((0.0, 0.5), (True, False)):
        encoder, _ = served(weight, predicted=predicted)
        nothing = encoder(torch.tensor([0]), torch.zeros(1, 5))[0]
        others = encoder(torch.arange(7), torch.randn(7, 5))
        queries = torch.cat([nn.functional.normalize(torch.randn(100, 3), dim=1), torch.tensor([[1.0, 0.0]] * 100)], 1)
        queries[-1] = torch.tensor([0, 0, 0, 0, 1.0])  # no history
        assert ((queries @ nothing)[:, None] <= queries @ others.T).all()


def test_without_predictions_what_nobody_has_had_is_as_popular_as_the_least_popular() -> None:
    encoder, vectors = served(predicted=False)
    least = vectors[1:, 3].min()
    found = encoder(torch.tensor([0, 0, 5, 1]), torch.randn(4, 5))
    # In the table usage tells, though content gives the direction.
    torch.testing.assert_close(found[:, 3], torch.stack([least, least, vectors[5, 3], vectors[1, 3]]) * 0.5)
    torch.testing.assert_close(found[2:, 4], vectors[[5, 1], 3])
    assert (found[:2, 4] < least).all()


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("predicted", [0.0, 0.1])
def test_without_a_history_the_most_popular_come_first(weight: float, predicted: float) -> None:
    plays = two_tastes()
    kept = (plays.items < 14) & (plays.users >= plays.items)  # the higher the number, the fewer have it
    part = Histories.from_pairs(plays.users[kept], plays.items[kept], 14, size=60)
    factors = usage_factors(part, FactorConfig(dimension=4, threshold=12), Run())
    assert 0 < factors.trusted.sum() < 14
    content = np.random.default_rng(1).normal(size=(14, 3)).astype(np.float32)
    trusted = np.flatnonzero(factors.trusted)
    tower = fit_numbers(factors, content, trusted, DescriptorConfig(epochs=2, popularity=predicted), Run())
    encoders = join(factors, number_vectors(tower, content), tower, weight)
    [scores] = (
        encoders.query(torch.zeros(1, 3, dtype=torch.int64))
        @ encoders.item(
            torch.cat([torch.arange(1, 15), torch.zeros(6, dtype=torch.int64)]),
            torch.cat([torch.from_numpy(content), torch.randn(6, 3)]),
        ).T.detach()
    )
    assert torch.isfinite(scores).all()
    known = factors.trusted if predicted else np.ones(14, np.bool_)
    np.testing.assert_allclose(scores[:14][known].numpy(), factors.popularity[known], rtol=1e-6)
    if predicted:
        assert scores.min() == pytest.approx(float(factors.popularity[known].min()))
    else:
        assert scores[14:].max() < scores[:14].min()


def test_zeros_are_content_where_they_are_values() -> None:
    encoder, vectors = served()
    values = WarmOrContent(vectors, encoder.warm, encoder.tower, 0.5, zeros_are_none=False)
    rows, zeros = torch.tensor([0, 5, 1]), torch.zeros(3, 5)
    heard = encoder.tower(zeros)[:, :3]
    torch.testing.assert_close(values(rows, zeros)[:, :3], torch.cat([heard[:2], vectors[1:2, :3]]))
    torch.testing.assert_close(encoder(rows, zeros)[:, :3], torch.cat([torch.zeros(1, 3), vectors[[5, 1], :3]]))


def test_the_query_is_the_unit_mean_of_the_history_and_says_whether_there_is_one() -> None:
    units = nn.functional.normalize(torch.randn(5, 3), dim=1)
    units[4] = 0.0
    query = FactorQuery(units)
    found = query(torch.tensor([[1, 3, 0], [2, 0, 0], [0, 0, 0], [4, 0, 0]]))
    torch.testing.assert_close(found[0, :3], nn.functional.normalize(units[1] + units[3], dim=0))
    torch.testing.assert_close(found[1, :3], units[2])
    assert found[2].tolist() == [0, 0, 0, 0, 1]
    assert found[3].tolist() == found[2].tolist()  # an item that nothing is known of
    assert found[:2, 3:].tolist() == [[1, 0], [1, 0]]


class _Query(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, history: Tensor) -> Tensor:
        out: Tensor = self.encoder(history)
        return out


@pytest.mark.parametrize(("kind", "predicted"), [("sound", True), ("numbers", True), ("numbers", False)])
def test_exported_encoders_give_what_the_modules_give(kind: str, predicted: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = replace(SHAPE, mels=4, frames=12)
    tower: ContentTower = SoundTower(shape) if kind == "sound" else NumbersTower(Layers(6, (8,), 0.3, 4, predicted))
    ids = tuple(range(10, 16))
    vectors = torch.cat([nn.functional.normalize(torch.randn(7, 4), dim=1), torch.randn(7, 1)], 1)
    warm = torch.tensor([False, True, True, True, False, True, True])
    modules: dict[Role, nn.Module] = {
        Role.QUERY_ENCODER: _Query(FactorQuery(vectors[:, :-1])),
        Role.ITEM_ENCODER: WarmOrContent(vectors, warm, tower, 0.3),
    }
    history = Input("history", "user:history", Side.USER, DType.INT64, 8, vocabulary="items.json")
    item = Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json")
    content = Input("content", "item:content", Side.ITEM, DType.FLOAT32, tower.length, 0.0)
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (history,), "query"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (item, content), "vector"),
    }
    signature = Signature("tracks", Stage.RETRIEVAL, graphs, 6, bias=2)
    written = export_model(modules, signature, {"items.json": Vocabulary(ids)}, tmp_path / "tracks")
    assert written.metadata["parity"]["graphs"]["item_encoder"]["overflows"] == []
    _, loaded = load_model(tmp_path / "tracks")
    values = (np.random.default_rng(0).random((3, tower.length)) * 10).astype(np.float32)
    found = loaded[Role.ITEM_ENCODER].run({"item": np.array([10, 13, 99]), "content": values})
    expected = modules[Role.ITEM_ENCODER].eval()(torch.tensor([1, 4, 0]), torch.from_numpy(values))
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    asked = loaded[Role.QUERY_ENCODER].run({"history": np.array([[10, 12], [99, 0]])})
    expected = FactorQuery(vectors[:, :-1])(torch.tensor([[1, 3], [0, 0]]))
    np.testing.assert_allclose(asked, expected.numpy(), rtol=1e-4, atol=1e-5)
