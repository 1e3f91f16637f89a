"""`model.yaml`: everything survives a round trip, and whatever is wrong is named."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.signature import (
    ROLES,
    SIDES,
    Graph,
    Input,
    Role,
    Side,
    Signature,
    Stage,
    from_dict,
    to_dict,
)

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
DEFAULTS = {
    DType.INT64: st.integers(-(2**63), 2**63 - 1),
    DType.FLOAT32: st.floats(allow_nan=False, allow_infinity=False, width=32),
    DType.BOOL: st.booleans(),
    DType.STRING: st.text(max_size=4),
}


@st.composite
def inputs(draw, role):
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    specs = []
    for name in names:
        dtype, side = draw(st.sampled_from(list(DType))), draw(st.sampled_from(SIDES[role]))
        sources = ["view"]
        if side is not Side.CONTEXT:
            sources.append("entity")
        if role is not Role.ITEM_ENCODER:
            sources.append("request")
        longest = draw(st.none() | st.integers(1, 100))
        given_value = draw(DEFAULTS[dtype])
        specs.append(
            Input(
                name,
                f"{draw(st.sampled_from(sources))}:{draw(NAMES)}",
                side,
                dtype,
                longest,
                dtype.zero if longest is None else given_value,
                given_value if longest is None else dtype.zero,
                draw(st.booleans()),
                "keys.json" if dtype is DType.STRING else draw(st.none() | st.just("keys.json")),
            )
        )
    return tuple(specs)


@st.composite
def signatures(draw):
    stage = draw(st.sampled_from(list(Stage)))
    graphs = {}
    for role in ROLES[stage]:
        file = draw(st.sampled_from(["", "graph.onnx"]))
        service = draw(st.none() | NAMES)
        graphs[role] = Graph(role, draw(inputs(role)), draw(NAMES), service, file, "ab" * 32 if file else "")
    dimension = draw(st.integers(1, 512)) if stage is Stage.RETRIEVAL else 0
    metadata = draw(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2))
    return Signature(draw(NAMES), stage, graphs, dimension, metadata)


@settings(deadline=None, max_examples=60)
@given(signatures())
def test_a_file_gives_back_the_signature(tmp_path_factory, signature):
    folder = tmp_path_factory.mktemp("model")
    path = signature.save(folder)
    assert path == folder / "model.yaml"
    assert Signature.load(folder) == signature
    assert Signature.load(path) == signature


AGE = Input("age", "user_profile:age", Side.USER, DType.INT64, default=30)
HISTORY = Input("history", "user_history:item_ids", Side.USER, DType.INT64, max_length=50, vocabulary="items.json")
TITLE = Input("title", "item_profile:title", Side.ITEM, DType.STRING, pad="", default="", vocabulary="titles.json")
HOUR = Input("hour", "request:hour", Side.CONTEXT, DType.FLOAT32, default=0.5)
RETRIEVAL = Signature(
    "movies_retrieval",
    Stage.RETRIEVAL,
    {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (AGE, HISTORY, HOUR), "vector", "query"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (TITLE,), "vector", None, "item_encoder.onnx", "cd" * 32),
    },
    16,
    {"seed": 1},
)


def test_a_user_may_leave_out_what_has_an_obvious_value():
    text = """
    name: movies_ranking
    stage: ranking
    graphs:
      ranker:
        inputs:
          - {feature: "user_profile:age", side: user, dtype: int64}
          - {feature: "item_profile:genres", side: item, dtype: string, max_length: 6, vocabulary: genres.json}
    """
    signature = from_dict(yaml.safe_load(text))
    ranker = signature.graphs[Role.RANKER]
    assert ranker.output == "output"
    assert ranker.input("user_profile__age") == Input("user_profile__age", "user_profile:age", Side.USER, DType.INT64)
    genres = ranker.input("item_profile__genres")
    assert (genres.pad, genres.default, genres.max_length) == ("", "", 6)


def test_an_input_says_how_a_sound_file_is_heard_and_whose_need_not_be(tmp_path):
    sound = Input("sound", "track:file", Side.ITEM, DType.FLOAT32, 60, audio={"mels": 6}, known="known.json")
    encoder = replace(RETRIEVAL.graphs[Role.ITEM_ENCODER], inputs=(TITLE, sound))
    signature = replace(RETRIEVAL, graphs={**RETRIEVAL.graphs, Role.ITEM_ENCODER: encoder})
    signature.save(tmp_path)
    assert Signature.load(tmp_path) == signature
    assert [spec.files for spec in (AGE, TITLE, sound)] == [(), ("titles.json",), ("known.json",)]


def test_references_are_those_of_feast_in_order_and_once():
    ranker = Graph(Role.RANKER, (AGE, replace(AGE, name="again"), HISTORY, TITLE, HOUR,
                                 Input("id", "entity:item_id", Side.ITEM, DType.INT64)), "p")  # fmt: skip
    assert ranker.references(Side.USER) == ("user_profile:age", "user_history:item_ids")
    assert ranker.references(Side.ITEM) == ("item_profile:title",)
    assert ranker.references(Side.CONTEXT) == ()
    assert RETRIEVAL.references(Side.USER) == ("user_profile:age", "user_history:item_ids")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_metric_is_kept(tmp_path, metric):
    signature = replace(RETRIEVAL, metric=metric)
    assert f"\nmetric: {metric}\n" in signature.save(tmp_path).read_text("utf-8")
    assert Signature.load(tmp_path) == signature


def test_without_a_metric_it_is_the_inner_product_and_the_file_says_nothing_of_it(tmp_path):
    text = RETRIEVAL.save(tmp_path).read_text("utf-8")
    assert "metric" not in text
    assert Signature.load(tmp_path).metric == "inner_product"
    assert Signature.load(tmp_path).save(tmp_path).read_text("utf-8") == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "euclidean"}, "'euclidean' is not one of inner_product, cosine, l2"),
        ({"metric": True}, "not text"),
        ({"metric": "cosine", "bias": 1}, "set `bias: 0`, or `metric: inner_product`"),
        ({"metric": "l2", "bias": 2}, "set `bias: 0`, or `metric: inner_product`"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(InvalidSignature, match=message) as caught:
        from_dict(to_dict(RETRIEVAL) | changes)
    assert caught.value.field == "metric"


def test_a_ranker_has_no_metric():
    graphs = {Role.RANKER: Graph(Role.RANKER, (AGE,), "p")}
    with pytest.raises(InvalidSignature, match="a ranking model has no vectors") as caught:
        Signature("movies_ranking", Stage.RANKING, graphs, metric="cosine")
    assert caught.value.field == "metric"


def test_an_unknown_input_is_a_key_error():
    with pytest.raises(KeyError):
        RETRIEVAL.graphs[Role.ITEM_ENCODER].input("age")


QUERY = "graphs.query_encoder"
MISTAKES = [
    # (path in the document, wrong value, field of the error)
    (("name",), "two words", "name"),
    (("name",), 5, "name"),
    (("stage",), "sorting", "stage"),
    (("stage",), "ranking", "graphs"),
    (("format",), 2, "format"),
    (("dimension",), 0, "dimension"),
    (("dimension",), "16", "dimension"),
    (("metadata",), ["seed"], "metadata"),
    (("graphs",), [], "graphs"),
    (("colour",), "red", "signature.colour"),
    (("graphs", "decoder"), {"inputs": []}, "graphs"),
    (("graphs", "query_encoder"), 7, QUERY),
    (("graphs", "query_encoder", "inputs"), {}, f"{QUERY}.inputs"),
    (("graphs", "query_encoder", "output"), 1, f"{QUERY}.output"),
    (("graphs", "query_encoder", "feature_service"), ["a"], f"{QUERY}.feature_service"),
    (("graphs", "query_encoder", "sha"), "", f"{QUERY}.sha"),
    (("graphs", "query_encoder", "inputs", 0), "age", f"{QUERY}.inputs[0]"),
    (("graphs", "query_encoder", "inputs", 0, "colour"), "red", f"{QUERY}.inputs[0].colour"),
    (("graphs", "query_encoder", "inputs", 0, "dtype"), "float64", f"{QUERY}.inputs[0].dtype"),
    (("graphs", "query_encoder", "inputs", 0, "dtype"), ["int64"], f"{QUERY}.inputs[0].dtype"),
    (("graphs", "query_encoder", "inputs", 0, "side"), "item", f"{QUERY}.age.side"),
    (("graphs", "query_encoder", "inputs", 0, "side"), "query", f"{QUERY}.inputs[0].side"),
    (("graphs", "query_encoder", "inputs", 0, "name"), "a-b", f"{QUERY}.a-b"),
    (("graphs", "query_encoder", "inputs", 0, "name"), "history", f"{QUERY}.history"),
    (("graphs", "query_encoder", "inputs", 0, "feature"), "age", f"{QUERY}.age.feature"),
    (("graphs", "query_encoder", "inputs", 0, "feature"), "a:b:c", f"{QUERY}.age.feature"),
    (("graphs", "query_encoder", "inputs", 0, "feature"), 5, f"{QUERY}.inputs[0].feature"),
    (("graphs", "query_encoder", "inputs", 0, "default"), "30", f"{QUERY}.age.default"),
    (("graphs", "query_encoder", "inputs", 0, "default"), True, f"{QUERY}.age.default"),
    (("graphs", "query_encoder", "inputs", 0, "default"), 2**63, f"{QUERY}.age.default"),
    (("graphs", "query_encoder", "inputs", 0, "required"), "no", f"{QUERY}.inputs[0].required"),
    (("graphs", "query_encoder", "inputs", 1, "pad"), 0.5, f"{QUERY}.history.pad"),
    (("graphs", "query_encoder", "inputs", 1, "max_length"), 0, f"{QUERY}.history.max_length"),
    (("graphs", "query_encoder", "inputs", 1, "max_length"), True, f"{QUERY}.inputs[1].max_length"),
    (("graphs", "query_encoder", "inputs", 1, "vocabulary"), ["a"], f"{QUERY}.inputs[1].vocabulary"),
    (("graphs", "query_encoder", "inputs", 2, "default"), float("nan"), f"{QUERY}.hour.default"),
    (("graphs", "query_encoder", "inputs", 2, "default"), float("inf"), f"{QUERY}.hour.default"),
    (("graphs", "query_encoder", "inputs", 2, "default"), 1e39, f"{QUERY}.hour.default"),
    (("graphs", "query_encoder", "inputs", 2, "feature"), "entity:user_id", f"{QUERY}.hour.side"),
    (("graphs", "item_encoder", "inputs", 0, "vocabulary"), None, "graphs.item_encoder.title.vocabulary"),
    (("graphs", "item_encoder", "inputs", 0, "feature"), "request:title", "graphs.item_encoder.title.feature"),
    (("graphs", "item_encoder", "inputs", 0, "known"), "known.json", "graphs.item_encoder.title.known"),
]


@pytest.mark.parametrize(("path", "value", "field"), MISTAKES)
def test_a_wrong_key_is_named(path, value, field):
    document = copy.deepcopy(to_dict(RETRIEVAL))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InvalidSignature) as caught:
        from_dict(document)
    assert caught.value.field == field


@pytest.mark.parametrize("key", ["feature", "side", "dtype"])
def test_a_missing_key_names_the_input(key):
    document = to_dict(RETRIEVAL)
    del document["graphs"]["query_encoder"]["inputs"][0][key]
    with pytest.raises(InvalidSignature, match=rf"age lacks `{key}`"):
        from_dict(document)


@pytest.mark.parametrize("missing", ["query_encoder", "item_encoder"])
def test_a_retrieval_model_has_both_encoders(missing):
    document = to_dict(RETRIEVAL)
    del document["graphs"][missing]
    with pytest.raises(InvalidSignature, match=r"query_encoder.*item_encoder"):
        from_dict(document)


def test_null_counts_as_absent():
    document = to_dict(RETRIEVAL) | {"metadata": None}
    assert from_dict(document).metadata == {}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: [", None])
def test_an_unreadable_file_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "model.yaml").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"model\.yaml"):
        Signature.load(tmp_path / "model.yaml")


def test_yaml_that_is_no_mapping_is_no_signature(tmp_path):
    (tmp_path / "model.yaml").write_text("- 1")
    with pytest.raises(InvalidSignature, match="mapping"):
        Signature.load(tmp_path)
