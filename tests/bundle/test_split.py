"""A split in a signature: written, read, and refused where it can't be one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSignature
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage, from_dict, to_dict
from feast_recsys.bundle.split import Part, Passed, Split

INPUTS = (
    Input("age", "profile:age", Side.USER, DType.INT64),
    Input("hour", "request:hour", Side.CONTEXT, DType.INT64),
    Input("price", "catalogue:price", Side.ITEM, DType.FLOAT32),
    Input("stock", "catalogue:stock", Side.ITEM, DType.INT64, fresh=True),
    Input("score", "request:score", Side.ITEM, DType.FLOAT32),
)
SPLIT = Split(
    Part("ranker_user.onnx", "1" * 64, ("age", "hour"), (Passed("user_0", "float32", (1, 8), 0),)),
    Part("ranker_item.onnx", "2" * 64, ("price",), (Passed("item_0", "float16", (1, None, 8)),)),
    Part("ranker_cross.onnx", "3" * 64, ("stock", "score")),
    "count",
    stackable=True,
)


def signature(split: Split | None = SPLIT) -> Signature:
    graph = Graph(Role.RANKER, INPUTS, "probability", file="ranker.onnx", sha256="0" * 64, split=split)
    return Signature("m", Stage.RANKING, {Role.RANKER: graph})


@pytest.mark.parametrize(
    "split",
    [
        None,
        SPLIT,
        replace(SPLIT, user=None, count="", stackable=False),
        replace(SPLIT, item=None, cross=Part("c.onnx", "4" * 64, ("price", "score"))),
        replace(SPLIT, user=replace(SPLIT.user, outputs=(Passed("u", "int64", (1, None)), Passed("v", "bool", (1,))))),
    ],
    ids=["none", "all", "no user part", "no item part", "a list's length"],
)
def test_what_is_written_is_read(split):
    document = yaml.safe_load(yaml.safe_dump(to_dict(signature(split))))
    assert from_dict(document) == signature(split)


def test_a_tensor_knows_where_its_candidates_are():
    passed = Passed("t", "float32", (1, None, 3, 2))
    assert (passed.axis, passed.width, passed.numpy.itemsize) == (1, 6, 4)


def test_only_what_the_item_part_alone_takes_is_hoisted():
    assert SPLIT.hoisted == {"price"}
    assert replace(SPLIT, cross=replace(SPLIT.cross, inputs=("price",))).hoisted == frozenset()
    assert replace(SPLIT, item=None).hoisted == frozenset()


def refusal(change: Any) -> str:
    document = to_dict(signature())
    change(document["graphs"]["ranker"]["split"])
    with pytest.raises(InvalidSignature) as raised:
        from_dict(document)
    return str(raised.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("cross"), "must hold cross"),
        (lambda s: s.update(what=1), "may hold user, item, count and stackable"),
        (lambda s: s["item"].pop("file"), "'file'"),
        (lambda s: s["item"]["outputs"][0].update(dtype="float64"), "dtype 'float64' of 'item_0'"),
        (lambda s: s["item"]["outputs"][0].update(shape=[2, 8]), "has not one axis of candidates"),
        (lambda s: s["item"]["outputs"][0].update(shape=[None, None]), "has not one axis of candidates"),
        (lambda s: s["user"]["outputs"][0].update(stack=1), "can't be repeated along axis 1"),
        (lambda s: s["user"].update(inputs=["price"]), "'price' can't be an input of that part"),
        (lambda s: s["item"].update(inputs=["age"]), "'age' can't be an input of that part"),
        (lambda s: s["cross"].update(inputs=["nobody"]), "'nobody' can't be an input of that part"),
    ],
)
def test_what_is_no_split_is_refused_by_name(change, words):
    assert words in refusal(change)


def test_only_rankers_are_split():
    encoder = Graph(Role.ITEM_ENCODER, INPUTS[2:3], "vector", split=SPLIT)
    query = Graph(Role.QUERY_ENCODER, INPUTS[:1], "vector")
    with pytest.raises(InvalidSignature, match="only a ranker is split"):
        Signature("m", Stage.RETRIEVAL, {Role.QUERY_ENCODER: query, Role.ITEM_ENCODER: encoder}, 4)
