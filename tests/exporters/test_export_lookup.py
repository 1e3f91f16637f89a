"""Vocabularies in front of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx import helper as oh
from support.torch_modules import Source
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSignature
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Scalar, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.export import export_model
from feast_recsys.exporters.lookup import attach_lookups
from feast_recsys.exporters.trace import OUTPUT, traced_name

INTEGERS = st.integers(-(2**63), 2**63 - 1)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def _identity(rank: int) -> onnx.ModelProto:
    """What a module that returns its rows would be traced to, with domains listed twice."""
    shape = ["batch", "length"][:rank]
    return oh.make_model(
        oh.make_graph(
            [oh.make_node("Identity", [traced_name(0)], [OUTPUT])],
            "traced",
            [oh.make_tensor_value_info(traced_name(0), TensorProto.INT64, shape)],
            [oh.make_tensor_value_info(OUTPUT, TensorProto.INT64, shape)],
        ),
        opset_imports=[oh.make_opsetid("", 18), oh.make_opsetid("ai.onnx.ml", 3), oh.make_opsetid("", 18)],
        ir_version=10,
    )


def _rows(keys: tuple[str, ...] | tuple[int, ...], values: np.ndarray, dtype: DType) -> np.ndarray:
    spec = Input(
        "key", "v:key", Side.ITEM, dtype, 9 if values.ndim == 2 else None, dtype.zero, dtype.zero, vocabulary="k.json"
    )
    graph = Graph(Role.ITEM_ENCODER, (spec,), "rows")
    model = attach_lookups(_identity(values.ndim), graph, {"k.json": Vocabulary(keys)}, {})
    assert [o.domain for o in model.opset_import] == ["ai.onnx.ml", ""]
    return ort.InferenceSession(model.SerializeToString()).run(["rows"], {"key": values})[0]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_graph_encodes_as_the_vocabulary_does(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([DType.INT64, DType.STRING]))
    one = INTEGERS if dtype is DType.INT64 else STRINGS
    keys = tuple(data.draw(st.lists(one, unique=True, max_size=12)))
    values = data.draw(st.lists(st.one_of(one, st.sampled_from(keys)) if keys else one, min_size=6, max_size=6))
    for shape in ((6,), (3, 2)):
        array = np.array(values, dtype.numpy).reshape(shape)
        np.testing.assert_array_equal(_rows(keys, array, dtype), Vocabulary(keys).encode(array))


def test_rows_begin_at_one_and_everything_else_is_zero() -> None:
    values = np.array(["b", "a", "c", "", "A", "a "], object)
    assert _rows(("a", "b"), values, DType.STRING).tolist() == [2, 1, 0, 0, 0, 0]
    assert _rows((), values, DType.STRING).tolist() == [0] * 6
    assert _rows((), np.array([0, 1, -1]), DType.INT64).tolist() == [0, 0, 0]


class _Table(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 3)

    def forward(self, key: Tensor) -> Tensor:
        return self.table(key)


def _pair(user: str, item: str, dtype: DType = DType.STRING) -> Signature:
    graphs = {
        role: Graph(role, (Input("key", f"{side.value}:key", side, dtype, default=dtype.zero, vocabulary=name),), "out")
        for role, side, name in ((Role.QUERY_ENCODER, Side.USER, user), (Role.ITEM_ENCODER, Side.ITEM, item))
    }
    return Signature("m", Stage.RETRIEVAL, graphs, dimension=3)


def _modules(rows: int) -> dict[Role, nn.Module]:
    return {role: _Table(rows) for role in (Role.QUERY_ENCODER, Role.ITEM_ENCODER)}


def test_a_vocabulary_may_be_empty(tmp_path: Path) -> None:
    export_model(_modules(1), _pair("none.json", "none.json"), {"none.json": Vocabulary(())}, tmp_path / "m")
    _, graphs = load_model(tmp_path / "m")
    vectors = graphs["item_encoder"].run({"key": np.array(["", "x"], object)})
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_vocabularies_end_up_beside_the_signature_wherever_they_came_from(tmp_path: Path) -> None:
    keys = Vocabulary(("a", "b"))
    signature = _pair("../shared/keys.txt", "keys.json")
    written = export_model(_modules(3), signature, {"../shared/keys.txt": keys, "keys.json": keys}, tmp_path / "m")
    assert {g.inputs[0].vocabulary for g in written.graphs.values()} == {"keys.json"}
    assert Vocabulary.load(tmp_path / "m" / "keys.json") == keys


def test_two_vocabularies_of_one_file_name_are_refused(tmp_path: Path) -> None:
    vocabularies = {"a/keys.json": Vocabulary(("a", "b")), "b/keys.json": Vocabulary(("b", "c"))}
    with pytest.raises(InvalidSignature, match=r"user:key and item:key have different vocabularies .* keys\.json"):
        export_model(_modules(3), _pair("a/keys.json", "b/keys.json"), vocabularies, tmp_path / "m")


@pytest.mark.parametrize(
    ("dtype", "keys", "message"),
    [
        (DType.INT64, ("1", "2"), "user:key is int64, the keys of vocabulary 'keys.json' are string"),
        (DType.STRING, (1, 2), "user:key is string, the keys of vocabulary 'keys.json' are int64"),
        (DType.FLOAT32, (1, 2), "user:key is float32; only int64 and string inputs can have a vocabulary"),
        (DType.BOOL, (1, 2), "user:key is bool; only int64 and string inputs can have a vocabulary"),
        (DType.INT64, (1, 2**63), "user:key: key 9223372036854775808 of vocabulary 'keys.json' is no int64"),
        (DType.STRING, ("a", "\ud800"), "user:key: key '\\ud800' of vocabulary 'keys.json' is no string"),
    ],
)
def test_a_vocabulary_that_does_not_fit_its_input_is_refused(
    dtype: DType, keys: tuple[str, ...] | tuple[int, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSignature) as caught:
        export_model(
            _modules(3), _pair("keys.json", "keys.json", dtype), {"keys.json": Vocabulary(keys)}, tmp_path / "m"
        )
    assert message in caught.value.message
    assert caught.value.field == "key"


def test_a_vocabulary_that_is_not_given_is_named(retrieval: Source, tmp_path: Path) -> None:
    given_ones = {k: v for k, v in retrieval.vocabularies.items() if k != "genders.json"}
    with pytest.raises(InvalidSignature, match=r"user_profile:gender: no vocabulary 'genders.json'"):
        export_model(retrieval.modules, retrieval.signature, given_ones, tmp_path / "m")


@pytest.mark.parametrize(("dtype", "pad", "keys"), [(DType.INT64, 0, (0, 1)), (DType.STRING, "-", ("-", "a"))])
def test_padding_must_not_be_a_known_key(
    dtype: DType, pad: Scalar, keys: tuple[str, ...] | tuple[int, ...], tmp_path: Path
) -> None:
    spec = Input("key", "user:key", Side.USER, dtype, 3, pad, dtype.zero, vocabulary="keys.json")
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (spec,), "out"),
        Role.ITEM_ENCODER: _pair("keys.json", "keys.json", dtype).graphs[Role.ITEM_ENCODER],
    }
    signature = Signature("m", Stage.RETRIEVAL, graphs, dimension=3)
    with pytest.raises(InvalidSignature, match=r"user:key: .* pads its lists and is a key"):
        export_model(_modules(3), signature, {"keys.json": Vocabulary(keys)}, tmp_path / "m")
