"""A ranker meets the candidates of all sources in training, as it meets them when it serves."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import asked_at, midnight_after
from support.serving import connected
from support.shop import build_shop
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.index.reduction import METRICS, Metric
from feast_recsys.bundle.signature import Role
from feast_recsys.evaluation.assessment import assess
from feast_recsys.evaluation.ranker import rank, tensors_of
from feast_recsys.exporters.export import export_model
from feast_recsys.features.repo import Repo
from feast_recsys.features.settings import Settings
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.ranking.build import build_ranker
from feast_recsys.models.ranking.candidates import RankingSet, retrieved_set
from feast_recsys.models.ranking.layout import first_layers
from feast_recsys.models.ranking.setup import RankingCandidates, ranking_candidates
from feast_recsys.models.ranking.sources import check_past, sources_of, untold
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig
from feast_recsys.models.retrieval.scoring import retrieve
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run
from feast_recsys.models.two_tower.towers import TwoTowerConfig
from feast_recsys.models.two_tower.train import train_retrieval
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb

CONFIG = WideDeepConfig(hidden=(16, 8), epochs=2, candidates=20, popular=5, random=5)
SOURCES: list[dict[str, Any]] = [
    {"name": "trending", "kind": "popular", "days": 20, "quota": 4},
    {"name": "personal", "quota": 9},
    {"name": "rare", "only": "cold", "cold_below": 24, "quota": 2},
    {"name": "dear", "kind": "recent", "by": "product_profile:price", "quota": 2},
    {"name": "alike", "kind": "similar", "seeds": 3, "quota": 3},
    {"name": "spare", "kind": "popular"},
]
NAMES = [str(source["name"]) for source in SOURCES]


def listing(repo: Repo, sources: list[dict[str, Any]], **more: Any) -> Repo:
    """The shop with sources. A feature a side will do: what they mean is learned and exported elsewhere."""
    document = repo.settings.model_dump(mode="json", exclude_defaults=True)
    shop = document["recommenders"]["shop"]
    shop["retrieval"] |= {"query": "shop_lists", "item": "shop_prices"}
    shop |= {"ranking": {"features": "shop_lists_and_prices"}, "sources": sources, **more}
    return replace(repo, settings=Settings.model_validate(document))


@dataclass(frozen=True)
class World:
    repo: Repo
    data: TrainingData
    retrieval: Checkpoint
    candidates: RankingCandidates
    ranking: Checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    shop = build_shop(tmp_path_factory.mktemp("shop"), DType.STRING)
    repo = listing(shop.repo, SOURCES, fallback="trending")
    data = load_data(repo, "shop")
    retrieval = train_retrieval(repo, "shop", seed=1, data=data, config=TwoTowerConfig(dimension=8, epochs=1))
    candidates = ranking_candidates(data, retrieval, CONFIG, Run(seed=1))
    ranking = train_ranking(repo, "shop", retrieval, seed=1, config=CONFIG, data=data, candidates=candidates)
    return World(repo, data, retrieval, candidates, ranking)


@pytest.fixture(scope="module")
def exported(world: World) -> Path:
    """The folder of the exported models, with the ranker, which is the same for all metrics."""
    folder = world.repo.resolve(world.repo.settings.models)
    export(world.ranking, folder)
    return folder


def export(checkpoint: Checkpoint, folder: Path) -> None:
    name = checkpoint.signature.name
    export_model(checkpoint.modules, checkpoint.signature, checkpoint.vocabularies, folder / name)


def test_every_source_is_among_the_candidates_of_training(world: World) -> None:
    train, held_out = world.candidates.train, world.candidates.held_out
    for found in (train, held_out):
        assert found.sources is not None
        assert set(np.unique(found.sources[found.real])) >= set(range(5))
    for row, items in enumerate(held_out.items):
        assert len(set(items.tolist())) == len(items) == 20
        assert held_out.sources is not None
        counts = np.bincount(held_out.sources[row], minlength=len(NAMES))
        assert counts[1] >= 9, "the own model always has its part"


def test_scores_are_standardized_within_their_source(world: World) -> None:
    ranker = world.ranking.modules[Role.RANKER]
    assert isinstance(ranker, WideDeep)
    train = world.candidates.train
    assert train.sources is not None
    assert [scale.source for scale in ranker.scales] == NAMES
    for at, scale in enumerate(ranker.scales):
        scores = train.scores[train.real & (train.sources == at)]
        if not len(scores):  # nothing was left to fill up
            assert (scale.source, scale.mean, scale.deviation) == ("spare", 0.0, 1.0)
            continue
        assert (scale.mean, scale.deviation) == pytest.approx((scores.mean(), scores.std()), rel=1e-3)
    assert ranker.linear is not None
    assert ranker.linear.in_features == 2 * len(NAMES) + 4
    columns = first_layers(ranker)["linear"][1]
    assert sorted(column for own in columns.values() for column in own) == list(range(ranker.linear.in_features))


def test_the_weights_come_back_with_their_scales(world: World) -> None:
    ranking = world.ranking
    ranker = build_ranker(ranking.signature, ranking.sizes, ranking.config)
    ranker.load_state_dict(ranking.modules[Role.RANKER].state_dict())
    found = world.candidates.held_out
    again = replace(ranking, modules={Role.RANKER: ranker.eval()})
    assert np.array_equal(rank(world.data, again, found), rank(world.data, ranking, found))


def test_the_assessment_ranks_what_all_sources_give(world: World) -> None:
    data, retrieval = world.data, world.retrieval
    found = retrieved_set(retrieval.modules, tensors_of(data, retrieval), data, data.test, 20)
    report = assess("shop", data, retrieval, world.ranking, baselines=False)
    liked = np.diff(data.test.offsets)
    assert report.metrics["retrieve"]["recall@20"].mean == pytest.approx(float(np.mean(found.labels.sum(1) / liked)))


@dataclass(frozen=True)
class Now:
    """What training says of all users at the moment of the bundle."""

    data: TrainingData
    queries: Queries
    found: RankingSet
    probabilities: np.ndarray[Any, Any]


def at_midnight(world: World, midnight: int) -> Now:
    """The training data as if everybody asked at a midnight after all that happened."""
    later, queries = asked_at(world.repo, world.data, midnight, user_key="customer_id", item_key="sku")
    tensors = tensors_of(later, world.retrieval)
    signature = world.retrieval.signature
    found = retrieved_set(
        world.retrieval.modules, tensors, later, queries, 20, bias=signature.bias, metric=signature.metric
    )
    return Now(later, queries, found, rank(later, world.ranking, found))


def of_any_length(world: World, metric: Metric) -> World:
    """The same towers without the last step that makes all vectors equally long, compared by a metric."""
    modules = copy.deepcopy(dict(world.retrieval.modules))
    for module in modules.values():
        assert module.unit
        module.unit = False
    signature = replace(world.retrieval.signature, metric=metric)
    return replace(world, retrieval=replace(world.retrieval, modules=modules, signature=signature))


@pytest.mark.parametrize("metric", METRICS)
def test_candidates_of_training_are_those_of_the_metric(world: World, metric: Metric) -> None:
    retrieval, data = of_any_length(world, metric).retrieval, world.data
    tensors, queries = tensors_of(data, retrieval), data.test
    found = retrieve(retrieval.modules, tensors, data, queries, 5, metric)
    states, days = data.states(queries), data.day_of(queries.times)
    encoders = retrieval.modules
    with torch.no_grad():
        asked = encoders[Role.QUERY_ENCODER](**tensors.users(states)).double()
        for row in range(0, len(queries), 7):
            on_day = int(days[row]) * data.items + np.arange(data.items)
            items = encoders[Role.ITEM_ENCODER](**tensors.items(on_day)).double()
            if metric == "l2":
                scores = -(torch.cdist(asked[row, None], items)[0] ** 2)
            elif metric == "cosine":
                scores = functional.cosine_similarity(asked[row, None], items)
            else:
                scores = items @ asked[row]
            scores[data.events.seen(int(queries.users[row]), int(queries.times[row]))] = -torch.inf
            due = scores.topk(5).values.numpy()
            np.testing.assert_allclose(found.scores[row], due, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(scores.numpy()[found.items[row]], due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_the_server_gives_the_candidates_scores_and_probabilities_of_training(
    world: World, exported: Path, metric: Metric
) -> None:
    world = world if metric == "inner_product" else of_any_length(world, metric)
    midnight = midnight_after(world.data)
    now = at_midnight(world, midnight)
    export(world.retrieval, exported)
    materialize(world.repo, as_of=datetime.fromtimestamp(midnight, timezone.utc))
    server = Server(world.repo, address="127.0.0.1:0")
    server.start()
    try:
        assert server.wait_until_ready(30)
        with connected(server) as stub:
            for row in range(0, len(now.queries), 9):
                agrees(world, now, row, stub)
            # Without a word about them, candidates count as the own model's.
            silent = stub.Rank(pb.RankRequest(user_id="c-000", item_ids=[str(world.data.events.item_ids[0])]))
            assert 0.0 < silent.scores[0] < 1.0
    finally:
        server.stop(0)


def agrees(world: World, now: Now, row: int, stub: Any) -> None:
    events, found = world.data.events, now.found
    user, ids = str(events.user_ids[row]), [str(item) for item in events.item_ids]
    seen = [ids[item] for item in events.seen(row, int(now.queries.times[row]))]
    request = pb.RetrieveRequest(user_id=user, top_k=20, exclude_item_ids=seen)
    retrieved = stub.Retrieve(request, timeout=30)
    assert found.sources is not None
    assert list(retrieved.item_ids) == [ids[item] for item in found.items[row]]
    assert list(retrieved.sources) == [NAMES[at] for at in found.sources[row]]
    assert list(retrieved.scores) == pytest.approx(found.scores[row].tolist(), rel=1e-4, abs=1e-5)
    whole = pb.RecommendRequest(user_id=user, top_k=20, candidate_count=20, exclude_item_ids=seen)
    answer = stub.Recommend(whole, timeout=30)
    due = dict(zip([ids[item] for item in found.items[row]], now.probabilities[row].tolist(), strict=True))
    assert dict(zip(answer.item_ids, answer.scores, strict=True)) == pytest.approx(due, abs=1e-5)


@pytest.mark.parametrize(
    ("source", "field", "why"),
    [
        ({"name": "new", "kind": "recent", "by": "product_profile:born"}, "by", "product_profile:born"),
        ({"name": "past", "kind": "similar", "history": "customer_seen:ids"}, "history", "customer_seen:ids"),
    ],
)
def test_a_missing_feature_is_refused_by_name(world: World, source: dict[str, Any], field: str, why: str) -> None:
    repo = listing(world.repo, [*SOURCES, source])
    data = replace(world.data, settings=repo.settings.recommender("shop"))
    with pytest.raises(InvalidSettings, match=why) as raised:
        train_ranking(repo, "shop", world.retrieval, config=CONFIG, data=data)
    assert raised.value.field == f"recsys.recommenders.shop.sources.{source['name']}.{field}"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"name": "other", "model": "shop_content"}, "shop_content"),
        ({"name": "some", "filter": {"type": "gt", "key": "product_profile:price", "value": 3}}, "filter"),
    ],
)
def test_a_source_without_a_past_is_left_out_and_told(world: World, source: dict[str, Any], why: str) -> None:
    without = listing(world.repo, SOURCES).settings.recommender("shop")
    settings = listing(world.repo, [*SOURCES, source]).settings.recommender("shop")
    assert why in untold(settings)[source["name"]] and not untold(without)
    assert sources_of(settings) == sources_of(without)
    check_past(settings, "recsys.recommenders.shop", tuple(world.data.user_columns), tuple(world.data.item_columns))


def test_one_source_has_nothing_to_tell_apart(world: World) -> None:
    repo = listing(world.repo, [{"name": "personal", "quota": 1}], fallback=None)
    data = replace(world.data, settings=repo.settings.recommender("shop"))
    ranking = train_ranking(repo, "shop", world.retrieval, seed=1, config=replace(CONFIG, epochs=1), data=data)
    assert "request:retrieval_source" not in {s.feature for s in ranking.signature.graphs[Role.RANKER].inputs}
