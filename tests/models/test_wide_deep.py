"""The ranker answers a user's candidates as it would answer them one by one, and its crosses count every pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.models.crosses import PRIME, Cross, KeyRows
from feast_recsys.models.wide_deep import RETRIEVAL_SCORE, WideDeep, WideDeepConfig

TOWN = Input("town", "customer:town", Side.USER, DType.STRING, default="", vocabulary="town.json")
MEMBER = Input("member", "customer:member", Side.USER, DType.BOOL, default=False)
AGE = Input("age", "customer:age", Side.USER, DType.INT64)
PAST = Input("past", "customer:past", Side.USER, DType.STRING, 6, "", "", vocabulary="sku.json")
ITEM = Input("entity__sku", "entity:sku", Side.ITEM, DType.STRING, default="", vocabulary="sku.json")
SCORE = Input("retrieval_score", RETRIEVAL_SCORE, Side.ITEM, DType.FLOAT32)
TAGS = Input("tags", "product:tags", Side.ITEM, DType.STRING, 3, "", "", vocabulary="tags.json")
PRICE = Input("price", "product:price", Side.ITEM, DType.FLOAT32)
MOOD = Input("mood", "product:mood", Side.ITEM, DType.FLOAT32, 3)
SPECS = (TOWN, MEMBER, AGE, PAST, ITEM, SCORE, TAGS, PRICE)
SIZES = {"town.json": 4, "sku.json": 9, "tags.json": 5}
KNOTS = {
    spec.name: tuple((float(n * step), n / 12) for n in range(13))
    for spec, step in ((AGE, 5), (SCORE, 0.1), (PRICE, 2.0))
}
CROSSES = (
    ("customer:town", "product:tags"),
    ("customer:past", "entity:sku"),
    ("customer:age", "product:price"),
    ("customer:member", "entity:sku"),
)


def ranker(
    specs: tuple[Input, ...] = SPECS,
    history: str | None = "past",
    crosses: tuple[tuple[str, str], ...] = CROSSES,
    buckets: int = 1000,
) -> WideDeep:
    """A ranker in which every weight matters: none is at its zero start."""
    torch.manual_seed(5)
    config = WideDeepConfig(dimension=8, hidden=(12, 6), pools=(1, 3, 6), buckets=buckets)
    model = WideDeep(specs, SIZES, KNOTS, "entity__sku", history, crosses, (0.3, 0.2), config)
    with torch.no_grad():
        for weight in (p for group in model.wide_parameters() for p in group):
            weight.normal_(0.0, 0.5)
    return model.eval()


def users(n: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(n)
    return {
        "town": torch.randint(0, 4, (n,), generator=random),
        "member": torch.arange(n) % 2 == 0,
        "age": torch.randint(0, 70, (n,), generator=random),
        "past": torch.randint(0, 9, (n, 4), generator=random) * torch.tensor([1, 1, 1, 0]),
    }


def items(n: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(n)
    return {
        "entity__sku": torch.randint(0, 9, (n,), generator=random),
        "retrieval_score": torch.rand(n, generator=random) * 2 - 1,
        "tags": torch.randint(0, 5, (n, 3), generator=random),
        "price": torch.rand(n, generator=random) * 30,
    }


def rows(inputs: dict[str, Tensor], index: list[int]) -> dict[str, Tensor]:
    return {name: values[torch.tensor(index)] for name, values in inputs.items()}


@pytest.mark.parametrize("buckets", [1000, 7], ids=["exact crosses", "hashed crosses"])
def test_one_user_for_all_candidates_is_the_same_as_the_user_repeated(buckets: int) -> None:
    model, candidates = ranker(buckets=buckets), items(11)
    for user in range(3):
        once, repeated = rows(users(3), [user]), rows(users(3), [user] * 11)
        served = model(**once, **candidates)
        assert served.shape == (11,)
        assert len(set(served.tolist())) > 5
        assert torch.allclose(served, model(**repeated, **candidates), atol=1e-6)


def test_several_users_are_answered_as_each_would_be_alone() -> None:
    model, candidates = ranker(), items(12)
    together = model(**users(3), **candidates).reshape(3, 4)
    for user in range(3):
        alone = model(**rows(users(3), [user]), **rows(candidates, list(range(4 * user, 4 * user + 4))))
        assert torch.allclose(together[user], alone, atol=1e-6)


def test_a_candidate_is_scored_without_regard_to_the_others() -> None:
    model, user, candidates = ranker(), users(1), items(9)
    served = model(**user, **candidates)
    back = list(reversed(range(9)))
    assert torch.allclose(model(**user, **rows(candidates, back)), served[back], atol=1e-6)
    assert torch.allclose(model(**user, **rows(candidates, [4])), served[[4]], atol=1e-6)


def test_without_user_features_it_ranks_by_the_items() -> None:
    model = ranker((ITEM, SCORE, TAGS, PRICE), history=None, crosses=())
    served = model(**items(6))
    assert served.shape == (6,)
    assert len(set(served.tolist())) > 3


@settings(deadline=None, max_examples=40)
@given(
    score=st.floats(-(2.0**100), 2.0**100, width=32),
    price=st.floats(-(2.0**100), 2.0**100, width=32),
    age=st.integers(-(2**62), 2**62),
    known=st.booleans(),
)
def test_probabilities_are_probabilities_whatever_comes(score: float, price: float, age: int, known: bool) -> None:
    row = int(known)
    user = {
        "town": torch.tensor([row]),
        "member": torch.tensor([known]),
        "age": torch.tensor([age]),
        "past": torch.tensor([[row, 0]]),
    }
    item = {
        "entity__sku": torch.tensor([row]),
        "retrieval_score": torch.tensor([score]),
        "tags": torch.tensor([[row, 0, 0]]),
        "price": torch.tensor([price]),
    }
    probability = ranker()(**user, **item).item()
    assert 0.0 <= probability <= 1.0


def test_probabilities_are_calibrated_by_scale_and_shift() -> None:
    model, inputs = ranker(), users(1) | items(5)
    logits = model.logits(inputs)
    assert torch.equal(model(**inputs), torch.sigmoid(logits))
    model.scale.fill_(2.5)
    model.shift.fill_(-1.25)
    assert torch.equal(model.logits(inputs), logits)
    assert torch.equal(model(**inputs), torch.sigmoid(2.5 * logits - 1.25))


def test_padding_of_the_history_does_not_count() -> None:
    model, candidates = ranker(), items(4)
    user = rows(users(2), [1])
    short, long = torch.tensor([[3, 7]]), torch.tensor([[3, 7, 0, 0, 0, 0]])
    assert torch.allclose(
        model(**(user | {"past": short}), **candidates), model(**(user | {"past": long}), **candidates), atol=1e-6
    )
    assert not torch.allclose(
        model(**(user | {"past": short}), **candidates), model(**(user | {"past": short.flip(1)}), **candidates)
    )


def keys_by_loops(spec: Input, values: Tensor) -> list[list[int]]:
    """The keys of each row, nothing left out."""
    if spec.vocabulary is not None:
        return [[key for key in (row if spec.is_list else [row]) if key] for row in values.tolist()]
    if spec.dtype is DType.BOOL:
        return [[1 + value] for value in values.tolist()]
    bounds = [point[0] for point in KNOTS[spec.name]][3:-1:3]
    return [[1 + sum(value >= bound for bound in bounds)] for value in values.tolist()]


@pytest.mark.parametrize("buckets", [1000, 6], ids=["exact", "hashed"])
@pytest.mark.parametrize("user", [TOWN, MEMBER, AGE, PAST], ids=lambda spec: spec.name)
@pytest.mark.parametrize("item", [ITEM, TAGS, PRICE], ids=lambda spec: spec.name)
def test_a_cross_is_the_sum_over_all_pairs_of_keys(user: Input, item: Input, buckets: int) -> None:
    torch.manual_seed(1)
    sides = [KeyRows(spec, SIZES.get(spec.vocabulary or ""), KNOTS.get(spec.name)) for spec in (user, item)]
    cross = Cross(sides[0], sides[1], buckets)
    torch.nn.init.normal_(cross.weight.weight)
    inputs = users(4) | items(12)
    result = cross(inputs, 4)
    weights, width = cross.weight.weight.detach().reshape(-1).tolist(), sides[1].rows
    mine, theirs = keys_by_loops(user, inputs[user.name]), keys_by_loops(item, inputs[item.name])
    exact = sides[0].rows * width <= buckets
    for u in range(4):
        for c in range(3):
            total = 0.0
            for a in mine[u]:
                for b in theirs[3 * u + c]:
                    total += weights[a * width + b if exact else (a * PRIME + b) % buckets]
            assert result[u, c].item() == pytest.approx(total, abs=1e-5)


def test_a_wide_item_side_gives_the_same_sums() -> None:
    torch.manual_seed(1)
    cross = Cross(KeyRows(PAST, 9, None), KeyRows(ITEM, 700, None), 9 * 700)
    torch.nn.init.normal_(cross.weight.weight)
    weights = cross.weight.weight.detach().reshape(9, 700)
    result = cross({"past": torch.tensor([[2, 5, 0]]), "entity__sku": torch.tensor([699, 0, 1])}, 1)
    expected = [(weights[2, 699] + weights[5, 699]).item(), 0.0, (weights[2, 1] + weights[5, 1]).item()]
    assert result[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_list_of_numbers_can_not_be_crossed() -> None:
    with pytest.raises(InvalidSettings, match="product:mood is a list of numbers"):
        KeyRows(MOOD, None, ((1.0, 1.0),))


def test_a_cross_with_the_sides_swapped_is_refused_and_says_what_there_is() -> None:
    with pytest.raises(InvalidSettings, match=r"product:tags is not among .*customer:town"):
        ranker(crosses=(("product:tags", "customer:town"),))


def test_every_weight_belongs_to_one_optimiser() -> None:
    model = ranker()
    crosses, linear = model.wide_parameters()
    split = [*crosses, *linear, *model.deep_parameters()]
    assert len(crosses) == len(CROSSES)
    assert sorted(map(id, split)) == sorted(map(id, model.parameters()))
