"""What `train_ranking` can be told: where to start, which loss, what a like weighs, which parts; on the shop's data."""

from __future__ import annotations

import json
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
from feast_recsys.evaluation.ablations import ablations
from feast_recsys.evaluation.predictions import log_loss
from feast_recsys.evaluation.protocol import Evaluation, evaluate_recommender
from feast_recsys.evaluation.ranker import ValueQuality, judge_ranker, rank
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.events import Events, Part
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.families.refit import refit
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.ranking.calibration import fit_platt
from feast_recsys.models.ranking.candidates import RankingSet, training_set
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
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
    candidates = ranking_candidates(data, retrieval, CONFIG, Run(seed=1))
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


def test_a_ranker_of_values_is_judged_by_what_its_candidates_brought(world: World) -> None:
    trained, held_out = world.train(weighted_by="label"), world.candidates.held_out
    p = rank(world.data, trained, held_out)
    quality = judge_ranker(world.data, trained, held_out, p, 10, 1)
    pooled, real = quality.pooled, held_out.real
    assert isinstance(pooled, ValueQuality)
    brought = np.where(held_out.labels, label_values(held_out, world.data.events), 0.0)
    expected = p[real] / (1 - p[real])
    assert pooled.value == pytest.approx(brought[real].mean())
    assert pooled.expected == pytest.approx(expected.mean())
    assert quality.points.counts.sum() == pooled.candidates == real.sum()
    # Its own unit, not that of a share: the labels are up to 90.
    assert quality.points.observed.max() > 1
    assert pooled.calibration_error == pytest.approx(quality.points.error)
    # Platt scaling balances weighted likes and others on just these candidates, so that the weighted loss is the one
    # that training saw, and values add up but for the share of likes.
    assert pooled.log_loss == pytest.approx(trained.metrics["validation"]["log_loss"], abs=1e-5)
    assert pooled.log_loss < pooled.constant_log_loss
    others = ~held_out.labels[real]
    assert np.sum(p[real][others]) == pytest.approx(np.sum(brought[real] * (1 - p[real])), rel=1e-3)
    first = np.take_along_axis(brought, np.argsort(np.where(real, -p, np.inf), axis=1, kind="stable"), axis=1)[:, :10]
    assert quality.brought is not None
    assert quality.brought_retrieve is not None
    assert quality.brought.mean == pytest.approx(first.sum(axis=1).mean())
    assert quality.brought_retrieve.mean == pytest.approx(brought[:, :10].sum(axis=1).mean())


def test_what_is_said_of_values_and_probabilities_is_kept_apart(world: World) -> None:
    weighted = evaluate_recommender(world.data, world.retrieval, world.train(weighted_by="label"), seed=1)
    plain = evaluate_recommender(world.data, world.retrieval, world.cold, seed=1)
    for evaluation in (weighted, plain):
        assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict()))) == evaluation
    assert isinstance(weighted.ranking, ValueQuality)
    assert not isinstance(plain.ranking, ValueQuality)


def test_encoders_of_the_folds_are_trained_as_the_run_says(world: World) -> None:
    """The precision stands for the device, which tests have but one of."""
    users = np.arange(0, len(world.data.events.user_ids), 2)
    specs = [spec for graph in world.retrieval.signature.graphs.values() for spec in graph.inputs]
    tensors = model_tensors(world.data, specs, world.retrieval.vocabularies)
    weights = [
        next(iter(refit(world.retrieval, tensors, world.data, users, run)[Role.ITEM_ENCODER].parameters()))
        for run in (Run(seed=1), Run(seed=1), Run(seed=1, precision="bfloat16"))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    folds = [
        training_set(world.data, world.retrieval, tensors, CONFIG, run).scores
        for run in (Run(seed=1), Run(seed=1, precision="bfloat16"))
    ]
    assert np.array_equal(folds[0], world.candidates.train.scores)
    assert not np.array_equal(folds[0], folds[1])


def test_without_a_label_nothing_can_be_weighed_by_it(world: World) -> None:
    settings = world.repo.settings
    assert settings.interactions is not None
    plain = settings.interactions.model_copy(update={"label": None})
    repo = replace(world.repo, settings=settings.model_copy(update={"interactions": plain}))
    with pytest.raises(InvalidSettings, match="name its column in recsys"):
        train_ranking(repo, "shop", world.retrieval, config=replace(CONFIG, weighted_by="label"), data=world.data)


def test_each_part_is_trained_and_judged_alone(world: World, tmp_path: Path) -> None:
    rows = ablations(world.repo, "shop", world.data, world.retrieval, world.cold, seed=1)
    assert list(rows) == ["wide & deep", "wide", "deep"]
    assert rows["wide"].weights < rows["deep"].weights <= rows["wide & deep"].weights
    # The ranker itself stands for both parts: what is said of it is what the evaluation says.
    whole = evaluate_recommender(world.data, world.retrieval, world.cold, seed=1)
    assert rows["wide & deep"].quality == whole.ranking
    assert rows["wide & deep"].ndcg == whole.ndcg["rank"]
    assert rows["wide & deep"].loss is None
    for name in ("wide", "deep"):
        loss = rows[name].loss
        assert loss is not None
        assert loss.mean == pytest.approx(whole.ndcg["rank"].mean - rows[name].ndcg.mean)
    held_out = world.candidates.held_out
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
