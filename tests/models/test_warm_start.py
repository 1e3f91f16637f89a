"""A ranker that starts from an older one takes over by key, by input and by reference, never by position."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.ranking.warm_start import WarmStart, start_from_ranking
from feast_recsys.models.ranking.wide_deep import RETRIEVAL_SCORE, WideDeep, WideDeepConfig
from feast_recsys.models.training.checkpoint import Checkpoint

TOWN = Input("town", "customer:town", Side.USER, DType.STRING, default="", vocabulary="town.json")
AGE = Input("age", "customer:age", Side.USER, DType.INT64)
MEMBER = Input("member", "customer:member", Side.USER, DType.BOOL, default=False)
PAST = Input("past", "customer:past", Side.USER, DType.STRING, 4, "", "", vocabulary="sku.json")
ITEM = Input("sku", "entity:sku", Side.ITEM, DType.STRING, default="", vocabulary="sku.json")
SCORE = Input("retrieval_score", RETRIEVAL_SCORE, Side.ITEM, DType.FLOAT32)
BRAND = Input("brand", "product:brand", Side.ITEM, DType.STRING, default="", vocabulary="brand.json")
PRICE = Input("price", "product:price", Side.ITEM, DType.FLOAT32)
SPECS = (TOWN, AGE, MEMBER, PAST, ITEM, SCORE, PRICE)
KNOTS = {name: tuple((float(n), n / 12) for n in range(13)) for name in ("age", "price", "retrieval_score")}
CROSSES = (("customer:town", "entity:sku"), ("customer:age", "product:price"), ("customer:town",))
OLD = {"town.json": ("Kiel", "Ulm", "Bonn"), "sku.json": ("a", "b", "c", "d"), "brand.json": ("x",)}
# Other keys, in another order.
NEW = {"town.json": ("Bonn", "Köln", "Ulm"), "sku.json": ("d", "new", "b", "a"), "brand.json": ("x",)}


def vocabularies(keys: Mapping[str, tuple[str, ...]]) -> dict[str, Vocabulary]:
    return {file: Vocabulary(values) for file, values in keys.items()}


def ranker(
    seed: int,
    keys: Mapping[str, tuple[str, ...]],
    specs: tuple[Input, ...] = SPECS,
    crosses: tuple[tuple[str, ...], ...] = CROSSES,
    knots: Mapping[str, tuple[tuple[float, float], ...]] = KNOTS,
    **options: object,
) -> WideDeep:
    torch.manual_seed(seed)
    config = WideDeepConfig(dimension=4, hidden=(6, 3), pools=(1, 2), **options)  # type: ignore[arg-type]
    sizes = {file: len(values) + 1 for file, values in keys.items()}
    item = "sku" if options.get("parts") != "wide" else None
    model = WideDeep(specs, sizes, knots, item, "past", crosses, (0.0, 1.0), config)
    with torch.no_grad():
        for weights in model.wide_parameters():
            for weight in weights:
                weight.normal_()
    return model.eval()


def checkpoint(model: WideDeep, keys: Mapping[str, tuple[str, ...]], specs: tuple[Input, ...] = SPECS) -> Checkpoint:
    signature = Signature("older", Stage.RANKING, {Role.RANKER: Graph(Role.RANKER, specs, "probability")})
    return Checkpoint({Role.RANKER: model}, signature, vocabularies(keys), {}, {})


def encoded(keys: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """A customer whose town and items both models know, and two candidates that both know."""

    def rows(file: str, values: list[str]) -> Tensor:
        return torch.from_numpy(Vocabulary(keys[file]).encode(np.array(values, object)))

    return {
        "town": rows("town.json", ["Ulm"]),
        "age": torch.tensor([7]),
        "member": torch.tensor([True]),
        "past": rows("sku.json", ["b", "d"]).unsqueeze(0),
        "sku": rows("sku.json", ["a", "b"]),
        "retrieval_score": torch.tensor([0.5, 2.0]),
        "price": torch.tensor([3.0, 8.0]),
        "brand": rows("brand.json", ["x", "x"]),
    }


def take_over(model: WideDeep, older: WideDeep, specs: tuple[Input, ...] = SPECS) -> WarmStart:
    return start_from_ranking(model, vocabularies(NEW), checkpoint(older, OLD, specs))


@pytest.mark.parametrize("numbers", ["powers", "pieces"])
@pytest.mark.parametrize("parts", ["both", "wide", "deep"])
def test_what_both_know_is_scored_as_the_older_model_scores_it(parts: str, numbers: str) -> None:
    older, model = (ranker(seed, k, parts=parts, numbers=numbers) for seed, k in ((1, OLD), (2, NEW)))
    before = model.logits(encoded(NEW))
    found = take_over(model, older)
    assert not found.fresh
    assert torch.allclose(model.logits(encoded(NEW)), older.logits(encoded(OLD)), atol=1e-6)
    assert not torch.allclose(before, older.logits(encoded(OLD)), atol=1e-2)


def test_new_keys_keep_their_own_start() -> None:
    older, model = ranker(1, OLD), ranker(2, NEW)
    assert model.items is not None and older.items is not None
    fresh = model.items.weight[2].clone()
    found = take_over(model, older)
    assert torch.equal(model.items.weight[2], fresh)
    assert torch.equal(model.items.weight[3], older.items.weight[2])  # "b"
    assert torch.equal(model.items.weight[0], torch.zeros(4))
    assert found.tables == {"items": (3, 4), "history.table": (3, 4), "users.tables.town": (2, 3)}


def test_pairs_of_new_keys_weigh_nothing() -> None:
    older, model = ranker(1, OLD), ranker(2, NEW)
    found = take_over(model, older)
    cross, theirs = model.crosses[0].weight.weight.view(4, 5), older.crosses[0].weight.weight.view(4, 5)
    assert torch.equal(cross[3, 1], theirs[2, 4])  # Ulm, d
    assert (cross[2] == 0).all()  # Köln
    assert (cross[:, 2] == 0).all()  # new
    assert found.crosses["customer:town x entity:sku"] == 2 * 3


def test_a_new_input_leaves_the_columns_of_the_others_where_they_belong() -> None:
    more = (TOWN, AGE, MEMBER, PAST, ITEM, SCORE, BRAND, PRICE)
    older, model = ranker(1, OLD), ranker(2, NEW, more)
    assert model.content.tables["brand"] is not None
    found = take_over(model, older)
    assert "content.tables.brand" in found.fresh
    with torch.no_grad():
        model.content.tables["brand"].weight.zero_()
    assert torch.allclose(model.logits(encoded(NEW)), older.logits(encoded(OLD)), atol=1e-6)


def test_crosses_are_matched_by_their_references() -> None:
    older, model = ranker(1, OLD), ranker(2, NEW, crosses=(CROSSES[2], ("customer:member", "entity:sku"), CROSSES[0]))
    found = take_over(model, older)
    assert set(found.crosses) == {"customer:town", "customer:town x entity:sku"}
    assert found.fresh == ("customer:member x entity:sku",)
    assert torch.equal(model.crosses[0].weight.weight[3], older.crosses[2].weight.weight[2])  # Ulm


def test_hashed_crosses_are_taken_where_both_number_their_keys_alike() -> None:
    three = (("customer:town", "customer:age", "entity:sku"), ("customer:town", "entity:sku"))
    older = ranker(1, OLD, crosses=three, buckets=7)
    same, other = ranker(2, OLD, crosses=three, buckets=7), ranker(2, NEW, crosses=three, buckets=7)
    found = start_from_ranking(same, vocabularies(OLD), checkpoint(older, OLD))
    assert not found.fresh
    assert torch.equal(same.crosses[0].weight.weight, older.crosses[0].weight.weight)
    found = take_over(other, older)
    assert found.fresh == ("customer:town x customer:age x entity:sku", "customer:town x entity:sku")
    wider = ranker(2, OLD, crosses=three, buckets=8)
    assert len(start_from_ranking(wider, vocabularies(OLD), checkpoint(older, OLD)).fresh) == 2


def test_numbers_that_fall_into_other_buckets_cross_anew() -> None:
    shifted = {**KNOTS, "price": tuple((n + 0.5, n / 12) for n in range(13))}
    older, model = ranker(1, OLD), ranker(2, NEW, knots=shifted)
    assert take_over(model, older).fresh == ("customer:age x product:price",)


def test_layers_of_other_widths_start_anew() -> None:
    older = ranker(1, OLD)
    torch.manual_seed(2)
    config = WideDeepConfig(dimension=4, hidden=(5, 3), pools=(1, 2))
    sizes = {file: len(values) + 1 for file, values in NEW.items()}
    model = WideDeep(SPECS, sizes, KNOTS, "sku", "past", CROSSES, (0.0, 1.0), config)
    kept = model.item_entry.weight.clone()
    found = take_over(model, older)
    assert {"item_entry.weight", "user_entry.weight", "match_entry.weight", "tower.2.weight"} <= set(found.fresh)
    assert torch.equal(model.item_entry.weight, kept)
    assert found.tables["items"] == (3, 4)


def test_a_part_alone_takes_what_it_has_from_both() -> None:
    older, model = ranker(1, OLD), ranker(2, NEW, parts="wide")
    assert take_over(model, older).fresh == ("bias",)
    assert torch.equal(model.crosses[0].weight.weight.view(4, 5)[3, 1], older.crosses[0].weight.weight.view(4, 5)[2, 4])


def test_what_was_taken_is_said_in_plain_json_and_words() -> None:
    found = take_over(ranker(2, NEW), ranker(1, OLD))
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert str(found).startswith("8 of 11 vectors, ")


def test_a_checkpoint_without_a_ranker_is_refused() -> None:
    older = checkpoint(ranker(1, OLD), OLD)
    other = Checkpoint(
        {Role.RANKER: torch.nn.Linear(2, 1)}, older.signature, older.vocabularies, {"family": "mine"}, {}
    )
    with pytest.raises(InvalidSettings, match="older is a model of family mine and holds no Wide & Deep ranker"):
        start_from_ranking(ranker(2, NEW), vocabularies(NEW), other)
