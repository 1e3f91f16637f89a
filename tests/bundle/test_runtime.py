"""A graph is opened only if file, inputs and output are those of its signature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import graphs

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.runtime import load_graph, load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Stage
from feast_recsys.bundle.vocabulary import Vocabulary

ITEM_ID = Input("item_id", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json")
YEAR = Input("year", "profile:year", Side.ITEM, DType.INT64)
PRICE = Input("price", "profile:price", Side.ITEM, DType.FLOAT32)
NEW = Input("new", "profile:new", Side.ITEM, DType.BOOL, default=False)
GENRES = Input("genres", "profile:genres", Side.ITEM, DType.STRING, 4, "", "", vocabulary="genres.json")
AGE = Input("age", "user:age", Side.USER, DType.INT64)
ALL = (ITEM_ID, YEAR, PRICE, NEW, GENRES)
VOCABULARIES = {"items.json": Vocabulary((7, 5)), "genres.json": Vocabulary(("Drama", "Komödie"))}
DIMENSION = 4


@pytest.fixture
def saved(tmp_path):
    return graphs.save_graph(
        tmp_path, Graph(Role.ITEM_ENCODER, ALL, "output"), graphs.graph(ALL, VOCABULARIES, DIMENSION)
    )


def test_a_graph_takes_raw_values_of_every_dtype_and_a_dynamic_batch(tmp_path, saved):
    loaded = load_graph(tmp_path, saved)
    rows = [
        {"entity:item_id": 5, "profile:year": 3, "profile:price": 0.5, "profile:new": True,
         "profile:genres": ["Drama"]},
        {"entity:item_id": 9, "profile:year": 0, "profile:price": 2.0, "profile:new": False,
         "profile:genres": ["Komödie", "?"]},
    ]  # fmt: skip
    tensors = {
        "item_id": np.array([5, 9]),
        "year": np.array([3, 0]),
        "price": np.array([0.5, 2.0], np.float32),
        "new": np.array([True, False]),
        "genres": np.array([["Drama", ""], ["Komödie", "?"]], object),
        "not_an_input": np.zeros(2),
    }
    oracle = np.stack([graphs.expected(ALL, VOCABULARIES, row, DIMENSION) for row in rows])
    np.testing.assert_array_equal(loaded.run(tensors), oracle)
    one = {name: tensor[:1] for name, tensor in tensors.items()}
    np.testing.assert_array_equal(loaded.run(one), oracle[:1])


def test_a_model_opens_with_its_graphs_by_role(tmp_path):
    signature = graphs.export(
        tmp_path / "m",
        "m",
        Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: (AGE,), Role.ITEM_ENCODER: ALL},
        VOCABULARIES,
    )
    opened, by_role = load_model(tmp_path / "m")
    assert opened == signature
    assert set(by_role) == {"query_encoder", "item_encoder"}
    assert by_role["query_encoder"].run({"age": np.array([1, 2])}).shape == (2, 4)


def test_a_missing_file_is_named(tmp_path, saved):
    (tmp_path / saved.file).unlink()
    with pytest.raises(CorruptArtifact, match=r"item_encoder\.onnx can't be read"):
        load_graph(tmp_path, saved)


def test_an_altered_file_is_named(tmp_path, saved):
    path = tmp_path / saved.file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"item_encoder\.onnx differs from its checksum"):
        load_graph(tmp_path, saved)


def test_a_file_that_is_no_model_is_named(tmp_path, saved):
    import hashlib

    (tmp_path / saved.file).write_bytes(b"no model")
    broken = replace(saved, sha256=hashlib.sha256(b"no model").hexdigest())
    with pytest.raises(CorruptArtifact, match=r"item_encoder\.onnx is no model that ONNX Runtime"):
        load_graph(tmp_path, broken)


def test_an_input_that_the_graph_lacks_is_named(tmp_path, saved):
    declared = replace(saved, inputs=(*ALL, replace(YEAR, name="decade")))
    with pytest.raises(InvalidSignature, match="'decade' is in the signature but not the graph") as caught:
        load_graph(tmp_path, declared)
    assert caught.value.field == "decade"


def test_an_input_that_the_signature_lacks_is_named(tmp_path, saved):
    with pytest.raises(InvalidSignature, match="'genres' is in the graph but not the signature") as caught:
        load_graph(tmp_path, replace(saved, inputs=ALL[:-1]))
    assert caught.value.field == "genres"


@pytest.mark.parametrize("wrong", [d for d in DType if d is not DType.INT64])
def test_an_input_of_another_type_is_named(tmp_path, saved, wrong):
    inputs = tuple(replace(i, dtype=wrong, vocabulary="x.json") if i is YEAR else i for i in ALL)
    with pytest.raises(
        InvalidSignature, match=rf"'year' is tensor\(int64\) in the graph, {wrong.value} in the"
    ) as caught:
        load_graph(tmp_path, replace(saved, inputs=inputs))
    assert caught.value.field == "year"


def test_a_list_declared_as_scalar_is_named(tmp_path, saved):
    inputs = tuple(replace(i, max_length=None) if i is GENRES else i for i in ALL)
    with pytest.raises(InvalidSignature, match="'genres' has rank 2 in the graph, 1 in the signature"):
        load_graph(tmp_path, replace(saved, inputs=inputs))


def test_a_scalar_declared_as_list_is_named(tmp_path, saved):
    inputs = tuple(replace(i, max_length=3) if i is YEAR else i for i in ALL)
    with pytest.raises(InvalidSignature, match="'year' has rank 1 in the graph, 2 in the signature"):
        load_graph(tmp_path, replace(saved, inputs=inputs))


def test_an_output_that_the_graph_lacks_is_named(tmp_path, saved):
    with pytest.raises(InvalidSignature, match=r"output 'vector' is not among \['output'\]"):
        load_graph(tmp_path, replace(saved, output="vector"))


def test_an_output_that_is_not_float32_is_refused(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["year"], ["output"])],
        "model",
        [graphs.input_info(YEAR)],
        [helper.make_tensor_value_info("output", TensorProto.INT64, ["B"])],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    saved = graphs.save_graph(tmp_path, Graph(Role.RANKER, (YEAR,), "output"), model)
    with pytest.raises(InvalidSignature, match=r"output 'output' is tensor\(int64\), not float32"):
        load_graph(tmp_path, saved)
