"""`feast-recsys train --warm-start`: the ranking model goes on from an older one, over keys that have come since."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from support.shop import Shop, build_shop, rewrite

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.cli.main import cli
from feast_recsys.features.repo import open_repo
from feast_recsys.models.data.training_data import load_data
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.train import train_family, train_ranker
from feast_recsys.models.training.checkpoint import save_checkpoint

QUICK = {
    "retrieval": {"dimension": 8, "epochs": 1},
    "ranking": {"hidden": [8], "epochs": 1, "candidates": 10, "popular": 2, "random": 2},
}


def train(shop: Shop, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["-c", str(shop.folder), "train", *arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop that was trained before its last eight products had ever been bought."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    built = build_shop(tmp_path_factory.mktemp("shop"), DType.STRING)
    rewrite(built.folder, **QUICK)
    path = built.folder / "purchases.parquet"
    everything = pq.read_table(path)
    late = sorted(built.section_of_product)[-8:]
    try:
        pq.write_table(everything.filter(pc.invert(pc.field("sku").isin(late))), path)
        repo = open_repo(built.folder)
        data = load_data(repo, "shop")
        retrieval = train_family(repo, "shop", data=data)
        for trained in (retrieval, train_ranker(repo, "shop", retrieval, data=data)):
            save_checkpoint(trained, checkpoint(built, trained.signature.name))
    finally:
        pq.write_table(everything, path)
    yield built
    torch.set_num_threads(threads)


def checkpoint(shop: Shop, model: str) -> Path:
    return shop.repo.resolve(shop.repo.settings.checkpoints) / model


def test_new_keys_start_afresh_and_all_others_are_taken_over(shop: Shop) -> None:
    older = load_checkpoint(checkpoint(shop, "shop_ranking"))
    result = train(shop, "--warm-start", str(checkpoint(shop, "shop_ranking")), "--json")
    assert result.exception is None, result.output
    assert json.loads(result.stdout)["ranking"]["candidates"] > 0
    newer = load_checkpoint(checkpoint(shop, "shop_ranking"))
    taken = newer.signature.metadata["training"]["warm_start"]
    [file] = {i.vocabulary for g in newer.signature.graphs.values() for i in g.inputs if i.name.startswith("entity__")}
    before, after = older.vocabularies[file].keys, newer.vocabularies[file].keys
    assert len(after) == len(before) + 8
    assert [len(before), len(after)] in taken["tables"].values()
    assert taken["log_loss"] > 0


def test_a_model_of_another_family_is_refused_before_anything_is_trained(shop: Shop) -> None:
    result = train(shop, "--warm-start", str(checkpoint(shop, "shop_retrieval")))
    assert isinstance(result.exception, InvalidSettings)
    assert "model of family two_tower and holds no Wide & Deep ranker" in result.exception.message
    assert result.exception.field == "warm_start"
    assert "train retrieval" not in result.output


def test_a_recommender_without_a_ranking_model_has_nothing_to_start(shop: Shop) -> None:
    kept = (shop.folder / "feature_store.yaml").read_text()
    try:
        rewrite(shop.folder, ranking=None)
        result = train(shop, "--warm-start", str(checkpoint(shop, "shop_ranking")))
    finally:
        (shop.folder / "feature_store.yaml").write_text(kept)
    assert isinstance(result.exception, InvalidArgument)
    assert "has no ranking model" in result.exception.message
