"""Every family that knows items by their ids: trained by its name in the settings, kept, exported, ranked upon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.shop import Shop, build_shop

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidRepository, InvalidSettings
from feast_recsys.bundle.index.allowed import all_but
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.vectors import mean_direction
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Role
from feast_recsys.exporters.export import export_model
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.families.refit import refit
from feast_recsys.models.families.registry import HISTORY_FAMILIES
from feast_recsys.models.inputs.tensors import ModelTensors, model_tensors
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.retrieval.history_models import liked
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint, save_checkpoint
from feast_recsys.models.training.loop import Run

# Small and quick; what they learn here is planted so plainly that little will do.
QUICK: dict[str, dict[str, Any]] = {
    "mult_dae": {"latent": 16, "batch": 20, "learning_rate": 0.01, "epochs": 20},
    "mult_vae": {"hidden": [32], "latent": 16, "batch": 20, "learning_rate": 0.01, "epochs": 20},
    "deep_autoencoder": {"layers": [16, 8], "batch": 20, "epochs": 20},
    "als": {"factors": 8},
    "bpr": {"factors": 8},
    "ease": {"regularization": 50.0},
    "item_knn": {},
    "popularity": {},
}

# How much better than chance they must be. An autoencoder of ratings is no model of what is picked up next.
LEAST = dict.fromkeys(QUICK, 1.6) | {"popularity": 0.7, "deep_autoencoder": 1.1}
CHANCE = 15 / 60


@dataclass(frozen=True)
class World:
    shop: Shop
    data: dict[bool, TrainingData]

    def repo(self, family: str, **retrieval: Any) -> Repo:
        return _repo(self.shop.repo, family, **retrieval)


def _repo(repo: Repo, family: str, **retrieval: Any) -> Repo:
    """The repository with another family in its settings."""
    stars = family == "deep_autoencoder"
    settings = repo.settings
    shop = settings.recommenders["shop"]
    changes = {"family": family, "hyperparameters": QUICK[family]}
    if stars:
        changes |= {"query": "shop_stars", "ratings": "customer_history:stars"}
    first = shop.retrieval.model_copy(update=changes | retrieval)
    assert settings.interactions is not None
    rated = settings.interactions.model_copy(update={"label": "stars", "positive_from": 3.0})
    return replace(
        repo,
        settings=settings.model_copy(
            update={
                "recommenders": {"shop": shop.model_copy(update={"retrieval": first})},
                "interactions": rated,
            }
        ),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shop = build_shop(tmp_path_factory.mktemp("shop"), DType.INT64)
    families = {False: "popularity", True: "deep_autoencoder"}
    yield World(shop, {stars: load_data(_repo(shop.repo, name), "shop") for stars, name in families.items()})
    torch.set_num_threads(threads)


def data_of(world: World, family: str) -> TrainingData:
    repo = world.repo(family)
    data = world.data[family == "deep_autoencoder"]
    return replace(data, settings=repo.settings.recommenders["shop"])


@pytest.fixture(scope="module", params=sorted(HISTORY_FAMILIES))
def trained(request: pytest.FixtureRequest, world: World) -> tuple[str, TrainingData, Checkpoint]:
    data = data_of(world, request.param)
    return request.param, data, train_family(world.repo(request.param), "shop", data=data, run=Run(seed=3))


def tensors_of(data: TrainingData, checkpoint: Checkpoint) -> ModelTensors:
    specs = [spec for graph in checkpoint.signature.graphs.values() for spec in graph.inputs]
    return model_tensors(data, specs, checkpoint.vocabularies)


def recall_of(data: TrainingData, checkpoint: Checkpoint, modules: Any = None, k: int = 15) -> float:
    found = retrieve(modules or checkpoint.modules, tensors_of(data, checkpoint), data, data.test, k)
    return recall(found, data.test)


def test_what_was_planted_is_found_far_above_chance(trained: tuple[str, TrainingData, Checkpoint]) -> None:
    family, data, checkpoint = trained
    assert recall_of(data, checkpoint) > LEAST[family] * CHANCE
    assert checkpoint.metrics["validation"]["users"] == len(data.validation)


def test_a_checkpoint_comes_back_as_it_was(trained: tuple[str, TrainingData, Checkpoint], tmp_path: Path) -> None:
    family, data, checkpoint = trained
    save_checkpoint(checkpoint, tmp_path / family)
    loaded = load_checkpoint(tmp_path / family)
    assert loaded.config == dict(checkpoint.config)
    one, other = (retrieve(c.modules, tensors_of(data, c), data, data.test, 20) for c in (checkpoint, loaded))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_the_exported_model_gives_the_same_vectors(
    trained: tuple[str, TrainingData, Checkpoint], tmp_path: Path
) -> None:
    family, data, checkpoint = trained
    export_model(checkpoint.modules, checkpoint.signature, checkpoint.vocabularies, tmp_path / family)
    signature, graphs = load_model(tmp_path / family)
    assert signature.metadata["training"]["family"] == family
    item = signature.graphs[Role.ITEM_ENCODER]
    vectors = graphs["item_encoder"].run({item.inputs[0].name: data.events.item_ids})
    rows = checkpoint.vocabularies[item.inputs[0].vocabulary or ""].encode(data.events.item_ids)
    expected = checkpoint.modules[Role.ITEM_ENCODER](**{item.inputs[0].name: torch.from_numpy(rows)})
    np.testing.assert_allclose(vectors, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_items_like_an_item_are_of_its_section(trained: tuple[str, TrainingData, Checkpoint], world: World) -> None:
    """Biases, which are the same for every seed, don't count."""
    family, _, checkpoint = trained
    if family in ("popularity", "deep_autoencoder"):
        return  # one knows nothing of likeness, the other little
    [vocabulary] = checkpoint.vocabularies.values()
    section = [world.shop.section_of_product[str(key)] for key in vocabulary.keys]
    encoder = checkpoint.modules[Role.ITEM_ENCODER]
    with torch.no_grad():
        vectors = encoder(**{encoder.item_id: torch.arange(1, len(section) + 1)}).numpy()
    index, shares = ExactIndex(vectors), []
    for row in range(len(section)):
        allow = all_but(np.array([row]), len(section))
        [found], _ = index.search(mean_direction(vectors[[row]], bias=checkpoint.signature.bias), 3, allow)
        shares.append(np.mean([section[n] == section[row] for n in found]))
    assert np.mean(shares) > 0.6


def test_users_who_were_left_out_are_served_all_the_same(trained: tuple[str, TrainingData, Checkpoint]) -> None:
    family, data, checkpoint = trained
    half = np.arange(0, len(data.events.user_ids), 2)
    modules = refit(checkpoint, tensors_of(data, checkpoint), data, half, Run(seed=4))
    assert recall_of(data, checkpoint, modules) > 0.9 * LEAST[family] * CHANCE


def test_the_likes_of_training_are_those_of_the_interactions(world: World) -> None:
    data = data_of(world, "ease")
    checkpoint = train_family(world.repo("popularity"), "shop", data=data_of(world, "popularity"))
    [vocabulary] = checkpoint.vocabularies.values()
    users = np.array([5, 0, 9])
    histories = liked(data, vocabulary, users, ratings=False)
    for user, items in zip(users.tolist(), histories, strict=True):
        mine = (data.events.users == user) & (data.events.parts == 0) & data.events.positive
        expected = {int(data.events.item_ids[n]) for n in data.events.items[mine]}
        assert {int(vocabulary.keys[n]) for n in items} == expected
    rated = liked(data, vocabulary, users, ratings=True)
    assert rated.ratings is not None
    assert set(rated.ratings.tolist()) <= {1.0, 2.0, 4.0, 5.0}
    assert len(rated.items) > len(histories.items)


def test_a_wrong_hyperparameter_is_named(world: World) -> None:
    for values, name in (({"latnet": 3}, "latnet"), ({"latent": "wide"}, "latent")):
        repo = world.repo("mult_vae", hyperparameters=values)
        data = replace(data_of(world, "mult_vae"), settings=repo.settings.recommenders["shop"])
        with pytest.raises(InvalidSettings) as refused:
            train_family(repo, "shop", data=data)
        assert refused.value.field == f"recsys.recommenders.shop.retrieval.hyperparameters.{name}"


def test_a_family_of_ratings_says_what_it_lacks(world: World) -> None:
    for reference, error in ((None, InvalidSettings), ("customer_history:grades", InvalidRepository)):
        repo = world.repo("deep_autoencoder", ratings=reference)
        data = replace(data_of(world, "deep_autoencoder"), settings=repo.settings.recommenders["shop"])
        with pytest.raises(error, match="ratings"):
            train_family(repo, "shop", data=data)
