"""`feast-recsys evaluate` measures what `train` left, prints it, and writes it as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from support.shop import PRODUCTS, Shop, build_shop

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.cli.evaluate import evaluate
from feast_recsys.cli.location import Location
from feast_recsys.evaluation.protocol import Evaluation, evaluate_recommender
from feast_recsys.models.data.training_data import load_data
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.training.checkpoint import save_checkpoint
from feast_recsys.models.two_tower.towers import TwoTowerConfig
from feast_recsys.models.two_tower.train import train_retrieval


@dataclass(frozen=True)
class Trained:
    shop: Shop
    evaluation: Evaluation

    @property
    def folder(self) -> Path:
        return self.shop.folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A shop whose recommender has been trained, for less long than `train` does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    built = build_shop(tmp_path_factory.mktemp("shop"), DType.STRING)
    repo = built.repo
    data = load_data(repo, "shop")
    retrieval = train_retrieval(repo, "shop", data=data, config=TwoTowerConfig(epochs=3))
    ranking = train_ranking(repo, "shop", retrieval, data=data, config=WideDeepConfig(epochs=2, folds=2))
    for checkpoint in (retrieval, ranking):
        save_checkpoint(checkpoint, repo.resolve(repo.settings.checkpoints) / checkpoint.signature.name)
    yield Trained(built, evaluate_recommender(data, retrieval, ranking))
    torch.set_num_threads(threads)


def run(shop: Trained, *arguments: str) -> Result:
    return CliRunner().invoke(evaluate, list(arguments), obj=Location(shop.folder))


@pytest.fixture(scope="module")
def measured(shop: Trained) -> dict:
    result = run(shop, "--json", "--html", str(shop.folder / "report.html"))
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_every_contender_is_measured_by_the_same_metrics(measured):
    contenders = measured["metrics"]
    assert list(contenders) == [
        "rank", "retrieve", "popularity", "item-kNN", "EASE", "ALS", "popular_rank", "rank_all",
    ]  # fmt: skip
    assert len({tuple(values) for values in contenders.values()}) == 1
    assert {"recall@5", "recall_min@10", "ndcg@10", "map@20", "hit_rate@20"} <= set(contenders["rank"])
    assert set(measured["gains"]) == set(contenders) - {"rank"}


def test_the_same_figures_as_after_training(shop: Trained, measured):
    kept = shop.evaluation.to_dict()
    assert measured["users"] == kept["users"]
    assert measured["metrics"]["rank"]["recall@20"]["mean"] == pytest.approx(kept["recall"]["mean"])
    for name, value in kept["ndcg"].items():
        assert measured["metrics"][name]["ndcg@10"] == pytest.approx(value), name
    pooled = measured["ranker"]["pooled"]
    assert pooled == pytest.approx(kept["ranking"])


def test_stages_fit_together(measured):
    rank, retrieve = measured["metrics"]["rank"], measured["metrics"]["retrieve"]
    # Rank reorders what Retrieve found, and no more.
    assert rank["recall@20"] == retrieve["recall@20"]
    assert measured["curves"]["rank"][-1] == pytest.approx(rank["recall@20"]["mean"])
    assert measured["liked"] >= measured["reached"] >= measured["shown"] > 0
    assert sum(measured["ranker"]["points"]["counts"]) == measured["ranker"]["pooled"]["candidates"]


def test_parts_of_the_test_add_up(measured):
    users = [part for part in measured["slices"] if part["kind"] == "users"]
    assert sum(part["size"] for part in users) == measured["users"]
    for name, value in users[0]["values"].items():
        total = sum(part["values"][name]["mean"] * part["size"] for part in users)
        assert total / measured["users"] == pytest.approx(measured["metrics"][name]["ndcg@10"]["mean"]), value
    liked = sum(part["size"] for part in measured["slices"] if part["kind"] == "items")
    assert liked == pytest.approx(measured["liked"] * measured["users"])


def test_the_page_maps_every_item_by_its_title(shop: Trained, measured):
    page = (shop.folder / "report.html").read_text()
    assert page.count('dot"><title>') == PRODUCTS
    assert "cheese no. 1 (cheese), " in page
    assert len(page) < 2_000_000


def test_tables_and_no_baselines(shop: Trained):
    result = run(shop, "--no-baselines")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Retrieve + Rank" in result.stdout
    assert "EASE" not in result.stdout
    assert "The same lists by other measures" in result.stdout


def test_other_interactions_than_those_of_training_are_refused(shop: Trained, tmp_path: Path):
    path = shop.folder / "purchases.parquet"
    table = pq.read_table(path)
    try:
        pq.write_table(table.slice(0, len(table) - 1), path)
        result = run(shop)
    finally:
        pq.write_table(table, path)
    assert isinstance(result.exception, CorruptArtifact)
    assert "train again" in result.exception.message
