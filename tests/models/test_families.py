"""Every family that knows items by their ids: trained by its name in the settings, kept, exported, ranked upon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import QUICK, Families

from feast_recsys.bundle.errors import InvalidRepository, InvalidSettings
from feast_recsys.bundle.index.allowed import all_but
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.vectors import mean_direction
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Role
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.families.refit import refit
from feast_recsys.models.families.registry import HISTORY_FAMILIES
from feast_recsys.models.inputs.tensors import ModelTensors, model_tensors
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.retrieval.history_models import liked
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint, save_checkpoint
from feast_recsys.models.training.loop import Run

# How much better than chance they must be. An autoencoder of ratings is no model of what is picked up next.
LEAST = dict.fromkeys(QUICK, 1.6) | {"popularity": 0.7, "deep_autoencoder": 1.1}
CHANCE = 15 / 60


@pytest.fixture(scope="module", params=sorted(HISTORY_FAMILIES))
def trained(request: pytest.FixtureRequest, families: Families) -> tuple[str, TrainingData, Checkpoint]:
    return request.param, families.data_of(request.param), families.checkpoint(request.param)


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
    trained: tuple[str, TrainingData, Checkpoint], families: Families
) -> None:
    family, data, checkpoint = trained
    signature, graphs = load_model(families.exported(family))
    assert signature.metadata["training"]["family"] == family
    item = signature.graphs[Role.ITEM_ENCODER]
    vectors = graphs["item_encoder"].run({item.inputs[0].name: data.events.item_ids})
    rows = checkpoint.vocabularies[item.inputs[0].vocabulary or ""].encode(data.events.item_ids)
    expected = checkpoint.modules[Role.ITEM_ENCODER](**{item.inputs[0].name: torch.from_numpy(rows)})
    np.testing.assert_allclose(vectors, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_items_like_an_item_are_of_its_section(
    trained: tuple[str, TrainingData, Checkpoint], families: Families
) -> None:
    """Biases, which are the same for every seed, don't count."""
    family, _, checkpoint = trained
    if family in ("popularity", "deep_autoencoder"):
        return  # one knows nothing of likeness, the other little
    [vocabulary] = checkpoint.vocabularies.values()
    section = [families.shop.section_of_product[str(key)] for key in vocabulary.keys]
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


def test_the_likes_of_training_are_those_of_the_interactions(families: Families) -> None:
    data = families.data_of("ease")
    [vocabulary] = families.checkpoint("popularity").vocabularies.values()
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


def test_a_wrong_hyperparameter_is_named(families: Families) -> None:
    for values, name in (({"latnet": 3}, "latnet"), ({"latent": "wide"}, "latent")):
        data = families.data_of("mult_vae", hyperparameters=values)
        with pytest.raises(InvalidSettings) as refused:
            train_family(families.repo, "mult_vae", data=data)
        assert refused.value.field == f"recsys.recommenders.mult_vae.retrieval.hyperparameters.{name}"


def test_a_family_of_ratings_says_what_it_lacks(families: Families) -> None:
    for reference, error in ((None, InvalidSettings), ("customer_history:grades", InvalidRepository)):
        data = families.data_of("deep_autoencoder", ratings=reference)
        with pytest.raises(error, match="ratings"):
            train_family(families.repo, "deep_autoencoder", data=data)
