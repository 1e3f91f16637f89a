"""`feast-recsys evaluate` measures what `train` left, prints it, and writes it as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from support.shop import PRODUCTS, Shop, build_shop

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.cli.evaluate import evaluate
from feast_recsys.cli.location import Location
from feast_recsys.evaluation.over_seeds import train_and_assess
from feast_recsys.evaluation.protocol import Evaluation, evaluate_recommender
from feast_recsys.features.repo import open_repo
from feast_recsys.models.data.training_data import DataConfig, load_data
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.refit import refit_ranker, refit_retrieval
from feast_recsys.models.train import train_family, train_ranker
from feast_recsys.models.training.checkpoint import save_checkpoint
from feast_recsys.models.training.loop import Run
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
    # What further trainings find in the settings.
    path = built.folder / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    stages = settings["recsys"]["recommenders"]["shop"]
    stages["retrieval"]["hyperparameters"] = {"epochs": 3}
    stages["ranking"]["hyperparameters"] = {"epochs": 2, "folds": 2}
    path.write_text(yaml.safe_dump(settings))
    repo = open_repo(built.folder)
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
        "rank", "retrieve", "popularity", "item-kNN", "EASE", "ALS", "BPR", "popular_rank", "rank_all",
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


def test_further_trainings_tell_what_is_chance_and_what_the_parts_do(shop: Trained):
    html = shop.folder / "trainings.html"
    result = run(shop, "--no-baselines", "--seeds", "2", "--ablations", "--json", "--html", str(html))
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads(result.stdout)
    seeds, forms = told["over_seeds"], told["ablations"]
    assert seeds["seeds"] == [0, 1]
    for name, metrics in seeds["metrics"].items():
        own = metrics["ndcg@10"]
        # The first of the trainings is the one that the checkpoints hold.
        assert own["values"][0] == pytest.approx(told["metrics"][name]["ndcg@10"]["mean"]), name
        assert own["mean"] == pytest.approx(np.mean(own["values"]))
        assert own["deviation"] == pytest.approx(np.std(own["values"], ddof=1))
    assert seeds["metrics"]["rank"]["ndcg@10"]["deviation"] > 0
    assert seeds["ranker"]["auc"]["values"][0] == pytest.approx(told["ranker"]["pooled"]["auc"])
    assert list(forms) == ["wide & deep", "wide", "deep"]
    assert forms["wide & deep"]["ndcg"] == pytest.approx(told["metrics"]["rank"]["ndcg@10"])
    assert forms["wide"]["weights"] < forms["wide & deep"]["weights"]
    page = html.read_text()
    assert "How much is chance in the training" in page
    assert "Wide, deep, and both" in page


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


def test_models_that_learned_from_validation_in_the_end_are_compared_with_such(shop: Trained):
    repo = open_repo(shop.folder)
    data = load_data(repo, "shop", DataConfig(refit=True))
    chosen = train_family(repo, "shop", data=data)
    retrieval = refit_retrieval(chosen, data, Run())
    ranking = refit_ranker(train_ranker(repo, "shop", chosen, data=data), retrieval, data, Run())
    folder = repo.resolve(repo.settings.checkpoints)
    before = [load_checkpoint(folder / model) for model in ("shop_retrieval", "shop_ranking")]
    try:
        for checkpoint in (retrieval, ranking):
            save_checkpoint(checkpoint, folder / checkpoint.signature.name)
        result = run(shop, "--no-baselines", "--seeds", "2", "--ablations", "--json")
    finally:
        for checkpoint in before:
            save_checkpoint(checkpoint, folder / checkpoint.signature.name)
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads(result.stdout)
    again = train_and_assess(repo, "shop", data, Run(seed=0), baselines=False, refit=True)
    assert told["metrics"]["rank"]["ndcg@10"]["mean"] == pytest.approx(again.metrics["rank"]["ndcg@10"].mean)
    assert told["ablations"]["wide & deep"]["ndcg"] == pytest.approx(told["metrics"]["rank"]["ndcg@10"])
    # The parts learn from as many candidates: trained on less they would have lost by that, too.
    [part] = [line for line in result.stderr.splitlines() if "train ranking again" in line][-1:]
    assert str(ranking.signature.metadata["training"]["candidates"]) in part
