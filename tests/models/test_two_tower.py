"""The two-tower's encoders serve whoever and whatever comes, with a tower and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.export import export_model
from feast_recsys.models.two_tower.negatives import Columns, sampled_softmax
from feast_recsys.models.two_tower.towers import TwoTowerConfig, build_ids_two_tower, build_two_tower

CONFIG = TwoTowerConfig(dimension=8, hidden=6)
ITEM = Input("entity__sku", "entity:sku", Side.ITEM, DType.STRING, default="", vocabulary="sku.json")
PRICE = Input("price", "product:price", Side.ITEM, DType.FLOAT32)
PAST = Input("past", "customer:past", Side.USER, DType.STRING, 5, "", "", vocabulary="sku.json")
TOWN = Input("town", "customer:town", Side.USER, DType.STRING, default="", vocabulary="town.json")
SIZES = {"sku.json": 7, "town.json": 4}
KNOTS = {"price": ((0.0, 0.1), (10.0, 0.5), (20.0, 1.0))}


def encoders(
    query: tuple[Input, ...] = (TOWN, PAST), item: tuple[Input, ...] = (ITEM, PRICE), config: TwoTowerConfig = CONFIG
) -> dict[Role, nn.Module]:
    torch.manual_seed(3)
    made = build_two_tower(query, item, SIZES, KNOTS, "past", config)
    return {role: module.eval() for role, module in made.items()}


def is_unit(vectors: Tensor) -> bool:
    return torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_an_empty_history_gives_a_finite_unit_vector(length: int) -> None:
    query = encoders()[Role.QUERY_ENCODER]
    vector = query(town=torch.tensor([0, 2]), past=torch.zeros(2, length, dtype=torch.int64))
    assert vector.shape == (2, 8)
    assert is_unit(vector)


def test_padding_and_unknown_items_of_a_history_do_not_count() -> None:
    query = encoders()[Role.QUERY_ENCODER]
    town = torch.tensor([1])
    short = query(town=town, past=torch.tensor([[3, 5]]))
    assert torch.allclose(query(town=town, past=torch.tensor([[3, 0, 5, 0, 0]])), short, atol=1e-6)
    assert not torch.allclose(query(town=town, past=torch.tensor([[3, 4]])), short, atol=1e-3)


def test_an_unknown_item_is_told_by_its_content() -> None:
    item = encoders()[Role.ITEM_ENCODER]
    vectors = item(entity__sku=torch.tensor([0, 0, 4]), price=torch.tensor([2.0, 15.0, 15.0]))
    assert is_unit(vectors)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)
    assert not torch.allclose(vectors[1], vectors[2], atol=1e-3)


def test_an_unknown_item_without_content_still_has_a_unit_vector() -> None:
    item = encoders(item=(ITEM,))[Role.ITEM_ENCODER]
    assert is_unit(item(entity__sku=torch.tensor([0, 1])))


def test_a_user_without_a_history_feature_is_told_by_the_others() -> None:
    query = encoders(query=(TOWN,))[Role.QUERY_ENCODER]
    vectors = query(town=torch.tensor([0, 1, 2]))
    assert is_unit(vectors)
    assert not torch.allclose(vectors[1], vectors[2], atol=1e-3)


def test_the_row_of_the_unknown_stays_zero_in_training_and_the_table_is_shared() -> None:
    modules = encoders()
    query, item = (modules[role].train() for role in (Role.QUERY_ENCODER, Role.ITEM_ENCODER))
    optimizer = torch.optim.Adam(nn.ModuleList(modules.values()).parameters(), lr=0.1)
    before = item.items.weight.detach().clone()
    queries = query(town=torch.tensor([0, 1]), past=torch.tensor([[0, 0], [2, 0]]))
    vectors = item(entity__sku=torch.tensor([0, 3]), price=torch.tensor([1.0, 2.0]))
    liked = torch.tensor([0, 3])
    columns = Columns(liked, torch.zeros(2))
    sampled_softmax(queries, vectors, torch.arange(2), liked, vectors, columns, temperature=0.1).backward()
    optimizer.step()
    assert query.items is item.items
    assert (item.items.weight[0] == 0.0).all()
    assert not torch.equal(item.items.weight, before)


def test_dropout_and_hiding_stop_when_training_stops() -> None:
    query = encoders()[Role.QUERY_ENCODER]
    inputs = {"town": torch.tensor([1]), "past": torch.tensor([[1, 2, 3, 4, 5]])}
    assert torch.equal(query(**inputs), query(**inputs))
    query.train()
    assert len({tuple(query(**inputs)[0].tolist()) for _ in range(8)}) > 1


def test_a_query_without_inputs_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="feature service"):
        encoders(query=())


# Without a tower


def test_without_a_tower_the_query_is_the_mean_of_the_history_and_one_item_more() -> None:
    made = build_ids_two_tower(6, replace(CONFIG, hidden=0, normalize=False))
    query, item = (made[role].eval() for role in (Role.QUERY_ENCODER, Role.ITEM_ENCODER))
    table, start = item.items.weight, query.start
    found = query(history=torch.tensor([[2, 0, 5], [0, 0, 0]]))
    assert torch.allclose(found[0], (table[2] + table[5] + start) / 3, atol=1e-6)
    assert torch.allclose(found[1], start, atol=1e-6)
    assert torch.allclose(item(item=torch.tensor([4, 0])), torch.stack([table[4], item.bias]), atol=1e-6)


def test_without_a_tower_and_with_unit_vectors_everybody_gets_finite_scores() -> None:
    made = {role: module.eval() for role, module in build_ids_two_tower(6, replace(CONFIG, hidden=0)).items()}
    assert is_unit(made[Role.QUERY_ENCODER](history=torch.tensor([[0, 0], [3, 1]])))
    assert is_unit(made[Role.ITEM_ENCODER](item=torch.arange(7)))


def test_without_a_hidden_layer_features_enter_linearly() -> None:
    made = encoders(config=replace(CONFIG, hidden=0, normalize=False))
    query, past = made[Role.QUERY_ENCODER], torch.tensor([[3, 5]])
    assert isinstance(query.tower, nn.Linear)
    vectors = [query(town=torch.tensor([town]), past=past) for town in (1, 2)]
    towns = query.features({"town": torch.tensor([1, 2])})
    assert torch.allclose(vectors[1] - vectors[0], (query.tower(towns[1]) - query.tower(towns[0])), atol=1e-5)


# With a bias

BIASED = replace(CONFIG, bias=True, temperature=0.2)


@pytest.mark.parametrize("hidden", [0, 6])
def test_a_bias_is_a_last_column_that_meets_a_one(hidden: int) -> None:
    config = replace(BIASED, hidden=hidden)
    plain, made = encoders(config=replace(config, bias=False)), encoders(config=config)
    for role in plain:
        made[role].load_state_dict(plain[role].state_dict(), strict=False)
    biases = made[Role.ITEM_ENCODER].biases.weight
    with torch.no_grad():
        biases.copy_(torch.arange(7.0).unsqueeze(-1))
    asked = {"town": torch.tensor([0, 2]), "past": torch.tensor([[3, 5], [0, 0]])}
    items = {"entity__sku": torch.tensor([0, 4, 6]), "price": torch.tensor([1.0, 2.0, 3.0])}
    queries, vectors = made[Role.QUERY_ENCODER](**asked), made[Role.ITEM_ENCODER](**items)
    assert queries.shape[1] == vectors.shape[1] == config.width == 9
    # As logits, products over the temperature, they differ by the bias and nothing else.
    before = plain[Role.QUERY_ENCODER](**asked) @ plain[Role.ITEM_ENCODER](**items).T
    assert torch.allclose((queries @ vectors.T - before) / config.temperature, torch.tensor([0.0, 4.0, 6.0]), atol=1e-5)


def test_without_a_bias_vectors_are_as_wide_as_the_dimension() -> None:
    assert CONFIG.width == CONFIG.dimension


@pytest.mark.parametrize(("hidden_ids", "expected"), [(0.0, -2.0), (0.1, 7.0)])
def test_an_unknown_item_has_the_least_bias_unless_training_taught_its_own(hidden_ids: float, expected: float) -> None:
    item = encoders(config=replace(BIASED, id_dropout=hidden_ids))[Role.ITEM_ENCODER]
    with torch.no_grad():
        item.biases.weight.copy_(torch.tensor([7.0, 1.0, -2.0, 3.0, 0.0, 5.0, 2.0]).unsqueeze(-1))
    item.settle()
    assert item.biases.weight[0].item() == expected


def test_a_bias_is_exported_and_its_column_is_declared(tmp_path: Path) -> None:
    made = encoders(config=BIASED)
    with torch.no_grad():
        nn.init.normal_(made[Role.ITEM_ENCODER].biases.weight)
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (TOWN, PAST), "query", "customer"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (ITEM, PRICE), "vector", "product"),
    }
    signature = Signature("two", Stage.RETRIEVAL, graphs, BIASED.width, bias=1)
    vocabularies = {file: Vocabulary(tuple("abcdef"[: rows - 1])) for file, rows in SIZES.items()}
    export_model(made, signature, vocabularies, tmp_path / "two")  # compares the graphs with the modules
    loaded, runners = load_model(tmp_path / "two")
    assert (loaded.dimension, loaded.bias) == (9, 1)
    past = np.array([["b", "", "", "", ""], [""] * 5], object)
    found = runners[Role.QUERY_ENCODER].run({"town": np.array(["", "a"], object), "past": past})
    np.testing.assert_array_equal(found[:, -1], 1.0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"correction": "some"}, "correction"),
        ({"in_batch": False, "uniform": 0}, "in_batch"),
        ({"hard": 9, "hard_pool": 8}, "hard"),
        ({"hard": -1}, "hard"),
        ({"targets": 0}, "targets"),
        ({"hard_every": 0}, "hard_every"),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        TwoTowerConfig(**changes)
    assert caught.value.field == field
