"""The ranker answers a user's candidates as it would answer them one by one, and its crosses count every pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.models.inputs.pieces import PiecewiseLinear
from feast_recsys.models.ranking.crosses import PRIME, Cross, KeyRows, KeyTuples, KeyWeights
from feast_recsys.models.ranking.ftrl import Ftrl
from feast_recsys.models.ranking.loss import joint_optimizers
from feast_recsys.models.ranking.wide_deep import RETRIEVAL_SCORE, WideDeep, WideDeepConfig, used_inputs

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
    **options: Any,
) -> WideDeep:
    """A ranker in which every weight matters: none is at its zero start."""
    torch.manual_seed(5)
    config = WideDeepConfig(dimension=8, hidden=(12, 6), pools=(1, 3, 6), buckets=buckets, **options)
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


def test_a_cross_with_the_sides_swapped_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"product:tags, customer:town\].*the user's before the item's"):
        ranker(crosses=(("product:tags", "customer:town"),))


def test_a_cross_of_a_feature_that_is_not_there_is_refused_and_says_what_there_is() -> None:
    with pytest.raises(InvalidSettings, match=r"customer:shoe is not among .*customer:town.*product:tags"):
        ranker(crosses=(("customer:shoe", "product:tags"),))


def test_every_weight_belongs_to_one_optimiser() -> None:
    model = ranker()
    crosses, linear = model.wide_parameters()
    split = [*crosses, *linear, *model.deep_parameters()]
    assert len(crosses) == len(CROSSES)
    assert sorted(map(id, split)) == sorted(map(id, model.parameters()))


# Crosses of one and of three


@pytest.mark.parametrize("spec", [TOWN, PAST, ITEM, TAGS], ids=lambda spec: spec.name)
def test_one_reference_alone_gives_each_key_a_weight(spec: Input) -> None:
    weights = KeyWeights(KeyRows(spec, SIZES[spec.vocabulary or ""], None))
    torch.nn.init.normal_(weights.weight.weight)
    inputs = users(4) | items(12)
    by_key = weights.weight.weight.detach().reshape(-1)
    expected = [sum(by_key[key].item() for key in keys) for keys in keys_by_loops(spec, inputs[spec.name])]
    assert weights(inputs, 4).reshape(-1).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("buckets", [1000, 23], ids=["exact", "hashed"])
def test_tuples_have_a_number_each_and_none_where_a_key_is_missing(buckets: int) -> None:
    parts = [KeyRows(TOWN, 4, None), KeyRows(AGE, None, KNOTS["age"]), KeyRows(PAST, 9, None)]
    tuples = KeyTuples(parts, buckets)
    inputs = users(6)
    found = tuples(inputs)
    keys = [keys_by_loops(part.spec, inputs[part.spec.name]) for part in parts]
    ages = parts[1].rows
    for row in range(6):
        expected = []
        for town in keys[0][row]:
            for age in keys[1][row]:
                for past in keys[2][row]:
                    if buckets == 1000:
                        expected.append((town * ages + age) * 9 + past)
                    else:
                        pair = (town * PRIME + age) % buckets + 1
                        expected.append((pair * PRIME + past) % buckets + 1)
        assert sorted(key for key in found[row].tolist() if key) == sorted(expected)
    assert int(found.max()) < tuples.rows


def test_a_cross_of_three_is_served_as_one_by_one() -> None:
    model = ranker(crosses=(("customer:town", "customer:age", "product:tags"), ("customer:past",), ("entity:sku",)))
    together = model(**users(3), **items(12)).reshape(3, 4)
    for user in range(3):
        alone = model(**rows(users(3), [user]), **rows(items(12), list(range(4 * user, 4 * user + 4))))
        assert torch.allclose(together[user], alone, atol=1e-6)


# One part alone


def test_the_wide_part_alone_holds_crosses_score_and_intercept() -> None:
    specs = used_inputs(SPECS, CROSSES, WideDeepConfig(parts="wide"))
    assert {spec.name for spec in specs} == {spec.name for spec in SPECS}
    few = used_inputs(SPECS, CROSSES[:1], WideDeepConfig(parts="wide"))
    assert [spec.name for spec in few] == ["town", "retrieval_score", "tags"]
    model = ranker(few, crosses=CROSSES[:1], parts="wide")
    assert sorted(name for name, _ in model.named_parameters()) == ["bias", "crosses.0.weight.weight", "linear.weight"]
    model.start_at(0.2)
    inputs = {name: values for name, values in (users(2) | items(6)).items() if name in {s.name for s in few}}
    score = ((inputs["retrieval_score"] - 0.3) / 0.2).clamp(-8, 8)
    assert model.linear is not None
    straight = score * model.linear.weight[0, 0] + torch.tensor(0.25).log()
    assert torch.allclose(model.logits(inputs), straight + model.crosses[0](inputs, 2).reshape(-1), atol=1e-5)


def test_the_deep_part_alone_is_the_tower() -> None:
    model = ranker(parts="deep")
    assert not any(name.startswith(("crosses", "linear", "bias")) for name, _ in model.named_parameters())
    assert model.wide_parameters() == ([], [])
    inputs = users(2) | items(6)
    assert not torch.allclose(
        model(**inputs), model(**(inputs | {"retrieval_score": inputs["retrieval_score"] + 0.4})), atol=1e-4
    )


def test_both_parts_together_are_their_sum() -> None:
    both = ranker()
    deep = ranker(parts="deep")
    deep.load_state_dict({name: values for name, values in both.state_dict().items() if name in deep.state_dict()})
    inputs = users(2) | items(6)
    wide = sum(cross(inputs, 2).reshape(-1) for cross in both.crosses)
    assert both.linear is not None and both.history is not None and both.items is not None
    similar = both.history(inputs, both.items(inputs["entity__sku"]).reshape(2, 3, -1))[1][
        ..., both.history.user_width :
    ]
    score = ((inputs["retrieval_score"] - 0.3) / 0.2).clamp(-8, 8).reshape(2, 3, 1)
    straight = both.linear(torch.cat([score, similar], -1)).reshape(-1)
    assert torch.allclose(both.logits(inputs), deep.logits(inputs) + wide + straight, atol=1e-5)


@pytest.mark.parametrize("parts", ["both", "wide", "deep"])
def test_an_untrained_model_starts_at_a_given_share(parts: str) -> None:
    model = ranker(parts=parts)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.start_at(0.07)
    assert model(**users(1), **items(3)).tolist() == pytest.approx([0.07] * 3, abs=1e-6)


@pytest.mark.parametrize("parts", ["both", "wide", "deep"])
def test_each_part_has_its_own_optimiser(parts: str) -> None:
    model = ranker(parts=parts)
    optimizers = joint_optimizers(model, WideDeepConfig())
    assert ("wide" in optimizers) is (parts != "deep")
    assert isinstance(optimizers["deep"], torch.optim.Adagrad)
    assert all(isinstance(optimizers[name], Ftrl) for name in optimizers if name == "wide")
    owned = [weight for o in optimizers.values() for group in o.param_groups for weight in group["params"]]
    assert sorted(map(id, owned)) == sorted(map(id, model.parameters()))


def test_a_wide_part_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="parts: wide leaves nothing without crosses"):
        ranker((TOWN, ITEM), history=None, crosses=(), parts="wide")


# Numbers in pieces


def test_pieces_say_how_much_of_each_interval_a_number_has_passed() -> None:
    encode = PiecewiseLinear([((0.0, 0.1), (2.0, 0.5), (10.0, 1.0)), ((5.0, 1.0),)])
    found = encode(torch.tensor([[-3.0, 5.0], [1.0, 5.5], [4.0, 7.0], [99.0, 0.0]]))
    expected = [[0.0, 0.0, 0.0], [0.5, 0.0, 0.5], [1.0, 0.25, 1.0], [1.0, 1.0, 0.0]]
    assert torch.allclose(found, torch.tensor(expected))


def test_a_model_with_pieces_keeps_the_rules_of_serving() -> None:
    model = ranker(numbers="pieces")
    together = model(**users(3), **items(12)).reshape(3, 4)
    alone = model(**rows(users(3), [1]), **rows(items(12), [4, 5, 6, 7]))
    assert torch.allclose(together[1], alone, atol=1e-6)
    more = items(12) | {"price": items(12)["price"] + 3.0}
    assert not torch.allclose(model(**users(3), **more), together.reshape(-1), atol=1e-4)
