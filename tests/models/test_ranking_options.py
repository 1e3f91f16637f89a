"""What `train_ranking` can be told: where to start, which loss, what a like weighs, which parts; on the shop's data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.shop import build_shop

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Role
from feast_recsys.evaluation.ablations import Ablation, ablations, judge_ranker
from feast_recsys.evaluation.predictions import auc, log_loss
from feast_recsys.evaluation.protocol import rank
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.events import Events, Part
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.ranking.calibration import fit_platt
from feast_recsys.models.ranking.candidates import RankingSet
from feast_recsys.models.ranking.setup import RankingCandidates, label_values, ranking_candidates
from feast_recsys.models.ranking.train import score_candidates, train_ranking
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig
from feast_recsys.models.training.checkpoint import Checkpoint, save_checkpoint
from feast_recsys.models.training.loop import Run
from feast_recsys.models.two_tower.towers import TwoTowerConfig
from feast_recsys.models.two_tower.train import train_retrieval

CONFIG = WideDeepConfig(hidden=(16, 8), epochs=2, candidates=20, popular=5, random=5)


@dataclass(frozen=True)
class World:
    repo: Repo
    data: TrainingData
    retrieval: Checkpoint
    candidates: RankingCandidates
    cold: Checkpoint

    def train(self, warm_start: Checkpoint | None = None, run: Run | None = None, **options: object) -> Checkpoint:
        """Trained on the same candidates with other options."""
        return train_ranking(
            self.repo, "shop", self.retrieval, seed=1, config=replace(CONFIG, **options), data=self.data,
            warm_start=warm_start, run=run, candidates=self.candidates,
        )  # type: ignore[arg-type]  # fmt: skip

    def logits(self, trained: Checkpoint) -> np.ndarray:
        """Of the validation users' candidates."""
        ranker = trained.modules[Role.RANKER]
        assert isinstance(ranker, WideDeep)
        tensors = model_tensors(self.data, trained.signature.graphs[Role.RANKER].inputs, trained.vocabularies)
        held_out = self.candidates.held_out
        return score_candidates(ranker, tensors, self.data, held_out)[held_out.real]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> World:
    shop = build_shop(tmp_path_factory.mktemp("shop"), DType.STRING)
    path = shop.folder / "purchases.parquet"
    purchases = pq.read_table(path)
    amounts = np.random.default_rng(0).integers(1, 90, len(purchases)).astype(np.float32)
    pq.write_table(purchases.append_column("amount", pa.array(amounts)), path)
    settings = shop.repo.settings
    assert settings.interactions is not None
    labelled = settings.interactions.model_copy(update={"label": "amount", "positive_from": 1.0})
    repo = replace(shop.repo, settings=settings.model_copy(update={"interactions": labelled}))
    data = load_data(repo, "shop")
    retrieval = train_retrieval(repo, "shop", seed=1, data=data, config=TwoTowerConfig(dimension=8, epochs=2))
    candidates = ranking_candidates(data, retrieval, CONFIG, seed=1)
    cold = train_ranking(repo, "shop", retrieval, seed=1, config=CONFIG, data=data, candidates=candidates)
    return World(repo, data, retrieval, candidates, cold)


def test_a_warm_start_begins_where_the_older_model_ended(world: World) -> None:
    warm = world.train(warm_start=world.cold)
    taken = warm.signature.metadata["training"]["warm_start"]
    assert taken["log_loss"] == pytest.approx(world.cold.metrics["validation"]["log_loss"], abs=1e-5)
    assert taken["fresh"] == []
    assert "warm_start" not in world.cold.signature.metadata["training"]


def test_a_warm_start_from_nothing_but_retrieval_is_refused(world: World) -> None:
    with pytest.raises(InvalidSettings, match="holds no Wide & Deep ranker"):
        world.train(warm_start=world.retrieval)


@pytest.mark.parametrize("loss", ["softmax", "both"])
def test_lists_may_be_trained_on_and_probabilities_are_calibrated_afterwards(world: World, loss: str) -> None:
    trained = world.train(loss=loss)
    logits, held_out = world.logits(trained), world.candidates.held_out
    labels = held_out.labels[held_out.real]
    module = trained.modules[Role.RANKER]
    assert isinstance(module, WideDeep)
    assert (float(module.scale), float(module.shift)) == pytest.approx(fit_platt(logits, labels), abs=1e-4)
    probabilities = 1 / (1 + np.exp(-(float(module.scale) * logits + float(module.shift))))
    assert probabilities.mean() == pytest.approx(labels.mean(), abs=1e-3)
    assert log_loss(labels, probabilities) == pytest.approx(trained.metrics["validation"]["log_loss"], abs=1e-4)
    assert not np.array_equal(logits, world.logits(world.cold))


def test_likes_may_weigh_their_label_and_the_odds_are_of_its_size(world: World, tmp_path: Path) -> None:
    trained = world.train(weighted_by="label")
    held_out = world.candidates.held_out
    labels, values = held_out.labels[held_out.real], label_values(held_out, world.data.events)[held_out.real]
    module = trained.modules[Role.RANKER]
    assert isinstance(module, WideDeep)
    weights = np.where(labels, values, 1.0)
    assert values[labels].mean() > 10
    calibrated = (float(module.scale), float(module.shift))
    assert calibrated == pytest.approx(fit_platt(world.logits(trained), labels, weights=weights), abs=1e-4)
    p = rank(world.data, trained, held_out)[held_out.real]
    # Where the gradient by the shift is zero, weighted likes and others balance.
    assert np.sum(weights * p) == pytest.approx(np.sum(values[labels]), rel=1e-3)
    save_checkpoint(trained, tmp_path / "ranking")
    assert load_checkpoint(tmp_path / "ranking").config["hyperparameters"]["weighted_by"] == "label"


def test_without_a_label_nothing_can_be_weighed_by_it(world: World) -> None:
    settings = world.repo.settings
    assert settings.interactions is not None
    plain = settings.interactions.model_copy(update={"label": None})
    repo = replace(world.repo, settings=settings.model_copy(update={"interactions": plain}))
    with pytest.raises(InvalidSettings, match="name its column in recsys"):
        train_ranking(repo, "shop", world.retrieval, config=replace(CONFIG, weighted_by="label"), data=world.data)


def test_each_part_is_trained_and_judged_alone(world: World, tmp_path: Path) -> None:
    rows = ablations(world.repo, "shop", world.retrieval, seed=1, config=CONFIG, data=world.data, ranking=world.cold)
    assert list(rows) == ["wide & deep", "wide", "deep"]
    assert rows["wide"].weights < rows["deep"].weights <= rows["wide & deep"].weights
    held_out = world.candidates.held_out
    assert rows["wide & deep"] == judge_ranker(world.data, world.cold, held_out, seed=1)
    p = rank(world.data, world.cold, held_out)[held_out.real]
    labels = held_out.labels[held_out.real]
    assert rows["wide & deep"].auc == pytest.approx(auc(labels, p))
    assert rows["wide & deep"].log_loss == pytest.approx(world.cold.metrics["validation"]["log_loss"], abs=1e-5)
    assert all(isinstance(row, Ablation) and 0.0 <= row.ndcg.mean <= 1.0 for row in rows.values())
    wide = world.train(parts="wide")
    names = {spec.feature for spec in wide.signature.graphs[Role.RANKER].inputs}
    assert names == {"customer_profile:town", "product_profile:section", "request:retrieval_score"}
    save_checkpoint(wide, tmp_path / "checkpoint")
    again = rank(world.data, load_checkpoint(tmp_path / "checkpoint"), held_out)
    assert np.array_equal(again, rank(world.data, wide, held_out))


def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(world: World, tmp_path: Path) -> None:
    world.train(run=Run(folder=tmp_path), epochs=1)
    resumed = world.train(run=Run(folder=tmp_path, resume=True))
    for name, weight in world.cold.modules[Role.RANKER].state_dict().items():
        assert torch.equal(weight, resumed.modules[Role.RANKER].state_dict()[name]), name


def test_a_like_has_the_label_of_its_first_time_after_the_query() -> None:
    random = np.random.default_rng(4)
    users, items, n = 5, 6, 120
    order = np.lexsort((random.permutation(n), np.sort(random.integers(0, users, n))))
    who = np.sort(random.integers(0, users, n))[order]
    when = np.zeros(n, np.int64)
    for user in range(users):
        when[who == user] = np.sort(random.choice(1000, int((who == user).sum()), replace=False))
    starts = np.searchsorted(who, np.arange(users + 1))
    events = Events(
        np.arange(users), np.arange(items), who, random.integers(0, items, n), when, random.random(n) < 0.6,
        np.full(n, Part.TRAIN, np.uint8), starts, random.random(n).astype(np.float32),
    )  # fmt: skip
    queries = Queries(
        np.array([0, 2, 4, 1]), np.array([100, 300, 0, 990]), np.empty(0, np.int64), np.zeros(5, np.int64)
    )
    candidates = np.tile(np.arange(items), (4, 1))
    expected = np.ones((4, items), np.float32)
    liked = np.zeros((4, items), np.bool_)
    for q in range(4):
        for item in range(items):
            later = [
                events.labels[e]
                for e in range(n)
                if who[e] == queries.users[q] and events.items[e] == item and events.positive[e]
                and when[e] >= queries.times[q]
            ]  # fmt: skip
            if later:
                liked[q, item], expected[q, item] = True, later[0]
    assert 5 < liked.sum() < liked.size
    found = RankingSet(queries, candidates, np.zeros(liked.shape, np.float32), liked)
    assert np.array_equal(label_values(found, events), expected)
    with pytest.raises(InvalidSettings, match="below 0"):
        label_values(found, replace(events, labels=events.labels - 2))
