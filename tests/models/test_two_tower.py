"""The two-tower's loss is that of its definition, and its encoders serve whoever and whatever comes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input, Role, Side
from feast_recsys.models.two_tower import TwoTowerConfig, build_two_tower, in_batch_loss, log_sampling_probability

CONFIG = TwoTowerConfig(dimension=8, hidden=6)
ITEM = Input("entity__sku", "entity:sku", Side.ITEM, DType.STRING, default="", vocabulary="sku.json")
PRICE = Input("price", "product:price", Side.ITEM, DType.FLOAT32)
PAST = Input("past", "customer:past", Side.USER, DType.STRING, 5, "", "", vocabulary="sku.json")
TOWN = Input("town", "customer:town", Side.USER, DType.STRING, default="", vocabulary="town.json")
SIZES = {"sku.json": 7, "town.json": 4}
KNOTS = {"price": ((0.0, 0.1), (10.0, 0.5), (20.0, 1.0))}


def encoders(query: tuple[Input, ...] = (TOWN, PAST), item: tuple[Input, ...] = (ITEM, PRICE)) -> dict[Role, nn.Module]:
    torch.manual_seed(3)
    made = build_two_tower(query, item, SIZES, KNOTS, "past", CONFIG)
    return {role: module.eval() for role, module in made.items()}


def is_unit(vectors: Tensor) -> bool:
    return torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)


def loss_by_loops(
    queries: list[list[float]],
    vectors: list[list[float]],
    liked: list[int],
    columns: list[int],
    log_q: list[float],
    temperature: float,
) -> float:
    total = 0.0
    for i, query in enumerate(queries):
        logits = {}
        for j, vector in enumerate(vectors):
            if j != i and columns[j] == liked[i]:
                continue
            dot = sum(a * b for a, b in zip(query, vector, strict=True))
            logits[j] = dot / temperature - log_q[j]
        total += math.log(sum(math.exp(value) for value in logits.values())) - logits[i]
    return total / len(queries)


@settings(deadline=None, max_examples=40)
@given(
    liked=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    drawn=st.lists(st.integers(0, 3), max_size=5),
    temperature=st.floats(0.2, 2.0),
    seed=st.integers(0, 1000),
)
def test_loss_is_the_corrected_softmax_without_accidental_hits(
    liked: list[int], drawn: list[int], temperature: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    columns = [*liked, *drawn]
    queries = torch.randn(len(liked), 3, generator=random, dtype=torch.float64)
    vectors = torch.randn(len(columns), 3, generator=random, dtype=torch.float64)
    log_q = torch.randn(len(columns), generator=random, dtype=torch.float64)
    loss = in_batch_loss(queries, vectors, torch.tensor(liked), torch.tensor(columns), log_q, temperature)
    expected = loss_by_loops(queries.tolist(), vectors.tolist(), liked, columns, log_q.tolist(), temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_a_batch_of_one_item_alone_has_nothing_to_learn() -> None:
    ones, items = torch.ones(3, 2, requires_grad=True), torch.tensor([5, 5, 5])
    loss = in_batch_loss(ones, torch.ones(3, 2), items, items, torch.zeros(3), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert ones.grad is not None and (ones.grad == 0.0).all()


def test_sampling_probability_is_that_of_a_column() -> None:
    counts, batch, uniform = [6, 3, 1, 0], 4, 2
    result = log_sampling_probability(torch.tensor(counts), batch, uniform).exp().tolist()
    for item, count in enumerate(counts):
        of_like = max(count, 1e-3) / sum(counts)
        assert result[item] == pytest.approx((batch * of_like + uniform * 1 / len(counts)) / (batch + uniform))


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
    in_batch_loss(queries, vectors, liked, liked, torch.zeros(2), 0.1).backward()
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
