"""A shop in which customers buy from one section each: training finds it, repeats, is kept, exported and judged."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.shop import HISTORY, Shop, build_shop

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Input, Role, to_dict
from feast_recsys.bundle.tensors import to_tensor
from feast_recsys.evaluation.baselines import recommend
from feast_recsys.evaluation.protocol import Evaluation, evaluate_recommender
from feast_recsys.evaluation.ranker import rank
from feast_recsys.exporters.export import export_model
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.ranking.candidates import RankingSet, retrieved_set
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.training.checkpoint import Checkpoint, save_checkpoint
from feast_recsys.models.two_tower.train import train_retrieval

HISTORY_FEATURE = "customer_history:product_ids"


@dataclass(frozen=True)
class Trained:
    shop: Shop
    data: TrainingData
    retrieval: Checkpoint
    ranking: Checkpoint
    evaluation: Evaluation

    def found(self, retrieval: Checkpoint | None = None) -> RankingSet:
        """The candidates of the test users."""
        retrieval = retrieval or self.retrieval
        specs = [spec for graph in retrieval.signature.graphs.values() for spec in graph.inputs]
        tensors = model_tensors(self.data, specs, retrieval.vocabularies)
        return retrieved_set(retrieval.modules, tensors, self.data, self.data.test, self.data.settings.candidates)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    shop = build_shop(tmp_path_factory.mktemp("shop"), DType.STRING)
    data = load_data(shop.repo, "shop")
    retrieval = train_retrieval(shop.repo, "shop", seed=1, data=data)
    ranking = train_ranking(shop.repo, "shop", retrieval, seed=1, data=data)
    return Trained(shop, data, retrieval, ranking, evaluate_recommender(data, retrieval, ranking))


def assert_same_weights(one: Checkpoint, other: Checkpoint) -> None:
    assert list(one.modules) == list(other.modules)
    for role, module in one.modules.items():
        weights, others = module.state_dict(), other.modules[role].state_dict()
        assert list(weights) == list(others)
        for name, weight in weights.items():
            assert torch.equal(weight, others[name]), name


def purchases_before(data: TrainingData, user: int, time: int) -> list[str]:
    """What a customer's history should be: the last products, most recent first."""
    mine = np.flatnonzero((data.events.users == user) & (data.events.times < time))
    return [str(data.events.item_ids[data.events.items[n]]) for n in mine[::-1][:HISTORY]]


def likes_of(queries: Queries, row: int) -> set[int]:
    return set(queries.items[queries.offsets[row] : queries.offsets[row + 1]].tolist())


# What is learned from


@pytest.mark.parametrize("name", ["training", "validation", "test", "ranking"])
def test_features_hold_what_came_before_the_moment_and_never_the_label(trained: Trained, name: str) -> None:
    data = trained.data
    queries: Queries = getattr(data, name)
    histories = data.user_columns[HISTORY_FEATURE].take(data.states(queries)).to_list()
    assert len(histories) == len(queries) >= 100
    for row, known in enumerate(histories):
        labels = {str(data.events.item_ids[item]) for item in likes_of(queries, row)}
        assert labels
        assert not labels & set(known or [])
        assert (known or []) == purchases_before(data, int(queries.users[row]), int(queries.times[row]))
    assert any(histories)


def test_nothing_of_validation_and_test_is_among_the_training_labels(trained: Trained) -> None:
    data = trained.data
    for queries in (data.training, data.ranking):
        for row in range(len(queries)):
            user = int(queries.users[row])
            train = (data.events.users == user) & (data.events.parts == 0)
            assert likes_of(queries, row) <= set(data.events.items[train].tolist())


# What is learned


def test_what_was_planted_is_learned(trained: Trained) -> None:
    ndcg, gain = trained.evaluation.ndcg, trained.evaluation.gain
    assert next(iter(ndcg)) == "rank"
    assert {"retrieve", "popularity", "item-kNN", "EASE"} < set(ndcg)
    assert ndcg["rank"].mean > 1.5 * ndcg["popularity"].mean
    assert gain["popularity"].low > 0.0


def test_candidates_are_of_the_customers_own_section_far_above_chance(trained: Trained) -> None:
    data, shop, found = trained.data, trained.shop, trained.found()
    sections = np.array([shop.section_of_product[str(item)] for item in data.events.item_ids])
    hits, chances = [], []
    for user, time, items in zip(found.queries.users, found.queries.times, found.items[:, :3], strict=True):
        own = sections == shop.section_of_customer[str(data.events.user_ids[user])]
        left = np.setdiff1d(np.arange(data.items), data.events.seen(int(user), int(time)))
        hits.append(own[items].mean())
        chances.append(own[left].mean())
    # Most of their own section is bought already by then.
    assert np.mean(chances) < 0.2
    assert np.mean(hits) > 2.5 * np.mean(chances)


def test_the_ranker_knows_more_than_a_constant(trained: Trained) -> None:
    quality = trained.evaluation.ranking
    assert quality is not None
    assert quality.auc > 0.6
    assert quality.log_loss < quality.constant_log_loss


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(trained: Trained) -> None:
    again = train_retrieval(trained.shop.repo, "shop", seed=1, data=trained.data)
    assert_same_weights(trained.retrieval, again)
    assert again.metrics == trained.retrieval.metrics
    other = train_retrieval(trained.shop.repo, "shop", seed=2, data=trained.data)
    with pytest.raises(AssertionError):
        assert_same_weights(trained.retrieval, other)


# How it is judged


def test_recall_is_that_of_sets(trained: Trained) -> None:
    found, queries = trained.found(), trained.data.test
    shares = []
    for row in range(len(queries)):
        liked = likes_of(queries, row)
        shares.append(len(liked & set(found.items[row].tolist())) / len(liked))
    assert trained.evaluation.recall.mean == pytest.approx(np.mean(shares))
    assert trained.evaluation.users == len(queries)
    assert trained.evaluation.items == len(set(trained.shop.section_of_product))


def test_ndcg_of_the_ranker_is_that_of_its_definition(trained: Trained) -> None:
    found, queries = trained.found(), trained.data.test
    probabilities = rank(trained.data, trained.ranking, found)
    values = []
    for row in range(len(queries)):
        liked = likes_of(queries, row)
        order = sorted(range(found.items.shape[1]), key=lambda n: -probabilities[row, n])
        hits = [found.items[row, n] in liked for n in order[:10] if found.items[row, n] >= 0]
        ideal = sum(1 / np.log2(n + 2) for n in range(min(len(liked), 10)))
        values.append(sum(hit / np.log2(n + 2) for n, hit in enumerate(hits)) / ideal)
    assert trained.evaluation.ndcg["rank"].mean == pytest.approx(np.mean(values))


def test_nothing_bought_before_is_recommended_by_anyone(trained: Trained) -> None:
    data, queries = trained.data, trained.data.test

    class Alphabetical:
        """A baseline that likes the first items best."""

        def score(self, histories: Histories, chosen: Any, /) -> Any:
            return np.tile(-np.arange(histories.catalogue, dtype=np.float32), (len(chosen), 1))

    first = recommend(Alphabetical(), data, queries, 5)
    found = trained.found().items
    for row in range(len(queries)):
        bought = set(data.events.seen(int(queries.users[row]), int(queries.times[row])).tolist())
        assert bought
        assert not bought & set(found[row].tolist())
        assert first[row].tolist() == [item for item in range(data.items) if item not in bought][:5]


def test_an_evaluation_comes_back_from_json(trained: Trained) -> None:
    document = json.loads(json.dumps(trained.evaluation.to_dict()))
    assert Evaluation.from_dict(document) == trained.evaluation
    only_retrieval = replace(trained.evaluation, ranking=None)
    assert Evaluation.from_dict(json.loads(json.dumps(only_retrieval.to_dict()))) == only_retrieval


# How it is kept


def test_a_checkpoint_gives_the_same_outputs_after_loading(trained: Trained, tmp_path: Path) -> None:
    save_checkpoint(trained.retrieval, tmp_path / "retrieval")
    save_checkpoint(trained.ranking, tmp_path / "ranking")
    retrieval, ranking = load_checkpoint(tmp_path / "retrieval"), load_checkpoint(tmp_path / "ranking")
    for saved, loaded in ((trained.retrieval, retrieval), (trained.ranking, ranking)):
        assert_same_weights(saved, loaded)
        # As they are written: the pad of a scalar, which means nothing, is not.
        assert to_dict(loaded.signature) == to_dict(saved.signature)
        assert loaded.vocabularies == saved.vocabularies
        assert loaded.metrics == json.loads(json.dumps(saved.metrics))
    before, after = trained.found(), trained.found(retrieval)
    assert np.array_equal(before.items, after.items)
    assert np.array_equal(before.scores, after.scores)
    probabilities = rank(trained.data, trained.ranking, before)
    assert np.array_equal(probabilities, rank(trained.data, ranking, after))


def test_a_checkpoint_replaces_another_but_nothing_else(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_checkpoint(trained.retrieval, folder)
    save_checkpoint(trained.ranking, folder)
    assert list(load_checkpoint(folder).modules) == [Role.RANKER]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday.txt").write_text("rain")
    with pytest.raises(CorruptArtifact, match="holds no checkpoint"):
        save_checkpoint(trained.retrieval, tmp_path / "diary")
    assert (tmp_path / "diary" / "monday.txt").read_text() == "rain"


@pytest.mark.parametrize("file", ["weights.safetensors", "config.json", "metrics.json", "sku.json"])
def test_a_broken_checkpoint_is_refused_by_name(trained: Trained, tmp_path: Path, file: str) -> None:
    save_checkpoint(trained.ranking, tmp_path / "ranking")
    (tmp_path / "ranking" / file).write_bytes(b"\x00 nothing")
    with pytest.raises(CorruptArtifact, match=file):
        load_checkpoint(tmp_path / "ranking")


# How it is served


def raw(trained: Trained, spec: Input, user_row: int, item_rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What a server would feed: features as the store has them."""
    data = trained.data
    if spec.source == "request":
        return scores
    if spec.source == "entity":
        return data.events.item_ids[item_rows % data.items]
    column: Column
    if spec.feature in data.user_columns:
        column = data.user_columns[spec.feature].take(np.array([user_row]))
    else:
        column = data.item_columns[spec.feature].take(item_rows)
    return to_tensor(column, spec)


def test_exported_models_give_from_raw_features_what_training_saw(trained: Trained, tmp_path: Path) -> None:
    data, found = trained.data, trained.found()
    graphs = {}
    for checkpoint in (trained.retrieval, trained.ranking):
        folder = tmp_path / checkpoint.signature.stage.value
        export_model(checkpoint.modules, checkpoint.signature, checkpoint.vocabularies, folder)
        signature, loaded = load_model(folder)
        graphs |= {role: (signature.graphs[role].inputs, loaded[role]) for role in signature.graphs}
    probabilities = rank(data, trained.ranking, found)
    states, days = data.states(found.queries), data.day_of(found.queries.times)
    for row in range(0, len(found.queries), 7):
        candidates = found.items[row][found.real[row]]
        item_rows, scores = days[row] * data.items + candidates, found.scores[row][found.real[row]]
        outputs = {}
        for role, (inputs, graph) in graphs.items():
            outputs[role] = graph.run({s.name: raw(trained, s, states[row], item_rows, scores) for s in inputs})
        similar = outputs[Role.ITEM_ENCODER] @ outputs[Role.QUERY_ENCODER][0]
        assert similar == pytest.approx(scores, abs=1e-5)
        assert outputs[Role.RANKER] == pytest.approx(probabilities[row][found.real[row]], abs=1e-5)
