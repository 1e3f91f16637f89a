"""The benchmark of incremental runs at a tiny size: everything real, nothing timed in earnest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from benchmarks.content import ITEM_FEATURES, ITEM_VIEW, RANKING, RETRIEVAL, USER_FEATURES, USER_VIEW
from benchmarks.retrieval import incremental, shop
from benchmarks.retrieval.incremental import Run, report, run, violations
from onnx import TensorProto, helper, numpy_helper

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.features.repo import open_repo

ITEMS, WIDTH = 1500, 8


def numbers(side):
    view, features = (ITEM_VIEW, ITEM_FEATURES) if side is Side.ITEM else (USER_VIEW, USER_FEATURES)
    return tuple(Input(f.name, f"{view}:{f.name}", side, DType.FLOAT32, default=0.0) for f in features if not f.keys)


def tower(folder, role, inputs):
    """Projects the numbers, side by side, and scales the result to unit length."""
    projection = np.random.default_rng(len(role.value)).standard_normal((len(inputs), WIDTH)).astype(np.float32)
    known = {"projection": projection, "last": np.array([1]), "least": np.array([1e-6], np.float32)}
    constants = [numpy_helper.from_array(value, name) for name, value in known.items()]
    nodes = [helper.make_node("Unsqueeze", [spec.name, "last"], [f"{spec.name}_"]) for spec in inputs]
    nodes += [
        helper.make_node("Concat", [f"{spec.name}_" for spec in inputs], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "projection"], ["vector"]),
        helper.make_node("ReduceL2", ["vector", "last"], ["norm"]),
        helper.make_node("Max", ["norm", "least"], ["length"]),
        helper.make_node("Div", ["vector", "length"], ["output"]),
    ]
    taken = [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, ["N"]) for spec in inputs]
    made = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", WIDTH])]
    if role is Role.RANKER:
        nodes.append(helper.make_node("ReduceSum", ["output", "last"], ["sum"], keepdims=0))
        made = [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N"])]
    opsets = [helper.make_opsetid("", 18)]
    graph = helper.make_graph(nodes, "tower", taken, made, constants)
    content = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    onnx.checker.check_model(content)
    (folder / f"{role.value}.onnx").write_bytes(content)
    declared = Graph(role, inputs, made[0].name)
    return replace(declared, file=f"{role.value}.onnx", sha256=hashlib.sha256(content).hexdigest())


def export(folder: Path) -> None:
    """Small models in place of those that take PyTorch half a minute to export."""
    stages = {
        RETRIEVAL: (Stage.RETRIEVAL, {Role.QUERY_ENCODER: Side.USER, Role.ITEM_ENCODER: Side.ITEM}, WIDTH),
        RANKING: (Stage.RANKING, {Role.RANKER: Side.ITEM}, 0),
    }
    for name, (stage, roles, width) in stages.items():
        (folder / name).mkdir(parents=True)
        graphs = {role: tower(folder / name, role, numbers(side)) for role, side in roles.items()}
        Signature(name, stage, graphs, width).save(folder / name)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Cache and results of one run of the command."""
    root = tmp_path_factory.mktemp("incremental")
    patch = pytest.MonkeyPatch()
    patch.setattr(shop.build, "__defaults__", (export,))
    options = ["--items", str(ITEMS), "--changed", "9", "--new", "3", "--gone", "4", "--rounds", "2"]
    try:
        assert incremental.main([*options, "--cache", str(root / "cache"), "--out", str(root / "out")]) == 0
    finally:
        patch.undo()
    return root


@pytest.fixture(scope="module")
def figures(benchmark):
    return json.loads((benchmark / "out" / f"{ITEMS}-9.json").read_text(encoding="utf-8"))["runs"]


def test_incremental_runs_do_what_has_changed_and_no_more(figures):
    assert figures["full"]["counts"]["embed items for shop: embedded"] == ITEMS
    for n, each in enumerate(figures["incremental"], start=1):
        counts = each["counts"]
        assert counts["read catalogue: items"] == ITEMS + n * (3 - 4)
        assert counts["embed items for shop: embedded"] == 9 + 3
        assert counts["embed items for shop: reused"] == counts["read catalogue: items"] - 12
        # Rows of the second in which the last run began are read once more.
        assert counts["read catalogue: read"] in (12, 24)
        assert counts["carry indexes on: carried"] == 1
    assert (figures["looked_for"], figures["wrong"]) == (14, [])


def test_the_report_has_a_line_for_each_step_and_the_ratio(figures):
    text = report(figures)
    assert all(name in text for name in [*figures["full"]["steps"], *figures["incremental"][0]["steps"]])
    assert f"{100 * figures['ratio']:.2f} % of a full run" in text
    assert "14 new and gone items looked for by Retrieve, 0 wrong" in text


def test_a_change_that_was_not_published_is_seen(benchmark):
    folder = benchmark / "cache" / str(ITEMS)
    happened = shop.change(open_repo(folder), changed=5, new=2, gone=2, seed=99)
    missed = violations(folder, happened)
    assert [text for text in missed if "is not found" in text] == [
        f"new item {new} is not found" for new in happened.new.tolist()
    ]
    run(folder, "incremental")
    assert violations(folder, happened) == []


def test_a_shop_that_goes_on_keeps_the_figures_of_its_full_run(benchmark, figures, tmp_path):
    options = ["--items", str(ITEMS), "--changed", "6", "--new", "1", "--gone", "1", "--rounds", "1", "--again"]
    assert incremental.main([*options, "--cache", str(benchmark / "cache"), "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / f"{ITEMS}-6.json").read_text(encoding="utf-8"))["runs"]
    assert Run(**again["full"]) == Run(**figures["full"])
    assert len(again["incremental"]) == 1


def test_changed_items_take_over_features_and_gone_ones_leave_their_rows_only_online(benchmark):
    folder = benchmark / "cache" / str(ITEMS)
    happened = shop.change(open_repo(folder), changed=6, new=2, gone=3, seed=7)
    rows = shop.latest(pq.read_table(folder / f"{ITEM_VIEW}.parquet")).to_pandas().set_index("item_id")
    names = [feature.name for feature in ITEM_FEATURES]
    assert not set(happened.gone.tolist()) & set(rows.index)
    for ids, models in ((happened.new, happened.new_models), (happened.changed[3:], happened.changed_models[3:])):
        np.testing.assert_array_equal(rows.loc[ids, names], rows.loc[models, names])
    np.testing.assert_array_equal(happened.heirs, happened.changed[:3])
    np.testing.assert_array_equal(happened.gone, happened.changed_models[:3])
