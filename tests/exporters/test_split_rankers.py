"""Rankers of many architectures, divided: the parts give what PyTorch gives, and less is left for each candidate."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from support.rankers import AGE, SCORE, VOCABULARIES, ZOO, OnlyRequest, Ranker, ranker

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.signature import Role, Side, Signature, Stage, from_dict, to_dict
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.inputs import to_torch
from feast_recsys.exporters.split.ranker import SplitResult, split_ranker
from feast_recsys.exporters.split.shapes import session

NAMES = sorted(ZOO)


@cache
def divided(name: str) -> tuple[Ranker, SplitResult]:
    made = ZOO[name]()
    return made, split_ranker(made.model, made.graph, VOCABULARIES, tolerance=1e-5)


def run(file: bytes, feed: dict[str, Array]) -> dict[str, Array]:
    opened = session(onnx.load_from_string(file))
    outputs = [node.name for node in opened.get_outputs()]
    taken = {node.name: feed[node.name] for node in opened.get_inputs()}
    return dict(zip(outputs, opened.run(outputs, taken), strict=True))


def serve(result: SplitResult, feed: dict[str, Array], catalogue: dict[str, Array]) -> Array:
    """As a server does it: the item part's columns come from the catalogue, all else from the call."""
    split = result.split
    assert split is not None
    given = dict(feed)
    if split.user is not None:
        given |= run(result.files[split.user.file], {name: feed[name] for name in split.user.inputs})
    if split.item is not None:
        given |= run(result.files[split.item.file], {name: catalogue[name] for name in split.item.inputs})
    given[split.count or "unused"] = np.array([max(map(len, feed.values()))])
    return run(result.files[split.cross.file], given)["probability"]


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_together_give_what_pytorch_gives(name: str) -> None:
    made, result = divided(name)
    sampler = Sampler(made.graph, VOCABULARIES, seed=11)
    for rows, length in ((1, 1), (2, 6), (33, 2), (33, 6)):
        feed = sampler.feed(rows, length)
        with torch.no_grad():
            expected = made.module(**to_torch(feed, made.graph, VOCABULARIES)).numpy()
        assert len(set(expected.tolist())) > rows // 4
        np.testing.assert_allclose(serve(result, feed, feed), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_the_catalogue_serves_any_choice_of_items(name: str) -> None:
    made, result = divided(name)
    split = result.split
    assert split is not None
    assert split.item is not None
    feed = Sampler(made.graph, VOCABULARIES, seed=12).feed(40, 6)
    columns = run(result.files[split.item.file], feed)
    chosen = np.array([39, 0, 0, 17])
    sides = {s.name: s.side for s in made.graph.inputs}
    few = {n: v[chosen] if sides[n] is Side.ITEM else v for n, v in feed.items()}
    alone = run(result.files[split.item.file], few)
    for passed in split.item.outputs:
        assert columns[passed.name].shape == tuple(40 if size is None else size for size in passed.shape)
        assert columns[passed.name].dtype == passed.numpy
        np.testing.assert_allclose(
            np.take(columns[passed.name], chosen, passed.axis), alone[passed.name], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_less_is_left_for_each_candidate_and_nothing_is_given_up(name: str) -> None:
    _, result = divided(name)
    facts = result.metadata
    assert facts["hoisted"] is True
    assert "dropped" not in facts
    assert facts["flops_per_candidate"]["served"] < facts["flops_per_candidate"]["whole"]
    assert facts["lookups_per_candidate"]["served"] < facts["lookups_per_candidate"]["whole"]
    assert facts["parity"]["relative"] <= 1e-5
    assert facts["parity"]["cases"] > 30
    assert result.split is not None
    outputs = result.split.item.outputs if result.split.item is not None else ()
    assert facts["item_columns_bytes"] == sum(p.width * p.numpy.itemsize for p in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_files_are_valid_old_enough_and_hold_no_more_than_they_use(name: str) -> None:
    _, result = divided(name)
    for content in result.files.values():
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == 10
        assert {(o.domain, o.version) for o in model.opset_import} <= {("", 18), ("ai.onnx.ml", 3)}
        used = {n for node in model.graph.node for n in node.input}
        assert {t.name for t in model.graph.initializer} <= used
        assert {value.name for value in model.graph.input} <= used
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_keeps_the_split(name: str) -> None:
    made, result = divided(name)
    graph = type(made.graph)(
        made.graph.role, made.graph.inputs, made.graph.output, file="ranker.onnx", split=result.split
    )
    signature = Signature("m", Stage.RANKING, {Role.RANKER: graph}, metadata={"split": dict(result.metadata)})
    assert from_dict(to_dict(signature)).graphs[Role.RANKER].split == result.split


def test_the_same_model_gives_the_same_bytes() -> None:
    for name in ("wide and deep", "DIN"):
        made, result = divided(name)
        again = split_ranker(made.model, made.graph, VOCABULARIES, tolerance=1e-5)
        assert again.files == result.files


def test_the_whole_graph_is_left_as_it_is() -> None:
    made = ZOO["cat first"]()
    before = made.model.SerializeToString(deterministic=True)
    split_ranker(made.model, made.graph, VOCABULARIES, tolerance=1e-5)
    assert made.model.SerializeToString(deterministic=True) == before


def test_the_first_layer_leaves_the_cross_part() -> None:
    """Of `Linear(35, 24)` over user and item only the row of the request's score is left."""
    _, result = divided("cat first")
    cross = onnx.load_from_string(result.files["ranker_cross.onnx"])
    shapes = sorted(tuple(t.dims) for t in cross.graph.initializer if len(t.dims) == 2)
    assert shapes == [(1, 12), (1, 24), (12, 24)]
    assert not any(node.op_type in ("Expand", "Concat", "LabelEncoder") for node in cross.graph.node)


def test_products_of_user_and_item_become_one_matrix_of_the_user() -> None:
    """Three means of the history times the item, and its similarities, cost one product with the item's vector."""
    _, result = divided("wide and deep")
    split = result.split
    assert split is not None
    assert split.user is not None
    assert (1, 16, 16) in [p.shape for p in split.user.outputs]
    cross = onnx.load_from_string(result.files["ranker_cross.onnx"])
    assert not any(node.op_type in ("Transpose", "Slice", "Expand", "LabelEncoder") for node in cross.graph.node)


def test_what_the_user_does_not_change_is_a_column() -> None:
    _, result = divided("only item")
    assert result.split is not None
    assert result.split.user is None
    assert result.metadata["flops_per_candidate"]["served"] == 0
    assert result.metadata["item_columns_bytes"] == 4
    assert result.split.hoisted == {"item", "price"}


def test_rows_and_flags_are_handed_over_as_what_they_are() -> None:
    _, result = divided("ints and bools")
    assert result.split is not None
    assert result.split.user is not None
    assert result.split.item is not None
    assert {p.dtype for p in result.split.item.outputs} == {"int64", "bool"}
    assert {p.dtype for p in result.split.user.outputs} == {"int64", "bool"}


def test_without_features_of_the_catalogue_the_whole_is_served() -> None:
    made = ranker(OnlyRequest(), (AGE, SCORE))
    result = split_ranker(made.model, made.graph, {}, tolerance=1e-5)
    assert result.split is None
    assert result.files == {}
    assert result.metadata["hoisted"] is False
    assert "item" in result.metadata["why"]


@pytest.mark.parametrize("name", [n for n in NAMES if divided(n)[1].split.stackable])  # type: ignore[union-attr]  # all are split
def test_candidates_of_several_users_go_through_together(name: str) -> None:
    made, result = divided(name)
    split = result.split
    assert split is not None
    sampler, counts = Sampler(made.graph, VOCABULARIES, seed=13), (3, 1, 6, 2)
    feeds = [sampler.feed(n, 6) for n in counts]
    apart = np.concatenate([serve(result, feed, feed) for feed in feeds])
    given: dict[str, Array] = {split.count or "unused": np.array([sum(counts)])}
    for part in (split.user, split.item):
        outputs = [run(result.files[part.file], feed) for feed in feeds] if part is not None else []
        for passed in part.outputs if part is not None else ():
            values = [each[passed.name] for each in outputs]
            axis = passed.stack if part is split.user else passed.axis
            assert axis is not None
            if part is split.user:
                values = [np.repeat(value, n, axis) for value, n in zip(values, counts, strict=True)]
            given[passed.name] = np.concatenate(values, axis)
    given |= {name: np.concatenate([feed[name] for feed in feeds]) for name in split.cross.inputs}
    together = run(result.files[split.cross.file], given)["probability"]
    np.testing.assert_allclose(together, apart, atol=1e-6)
    assert np.ptp(apart) > 0.01


def test_which_can_be_stacked() -> None:
    stackable = {name for name in NAMES if divided(name)[1].metadata["stackable"]}
    assert {"own module", "cat first", "FM", "DeepFM", "DLRM", "only item", "ints and bools"} <= stackable
    assert "wide and deep" not in stackable  # a matrix of the user has no row to repeat
