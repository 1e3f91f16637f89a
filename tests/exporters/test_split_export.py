"""`export_model` and `feast-recsys export` write the parts of a ranker beside the whole, and say what they save."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from click.testing import CliRunner
from support.torch_modules import VOCABULARIES, Exported, Source, export

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.runtime import load_model, load_split
from feast_recsys.bundle.signature import Role, Signature
from feast_recsys.cli.export import export as command
from feast_recsys.cli.location import Location
from feast_recsys.exporters.inputs import to_torch


def feed(n: int) -> dict[str, Array]:
    return {
        "history": np.array([[10, 12, 58]]),
        "gender": np.array(["M"], object),
        "genres": np.array([["Drama", "日本"], ["Action", ""]] * (n // 2), object),
        "item": np.arange(n) % 60,
        "count": np.arange(n) * 3,
        "score": np.linspace(-1, 1, n, dtype=np.float32),
    }


def test_parts_are_written_beside_the_whole_and_load(exported_ranking: Exported) -> None:
    signature, graphs = load_model(exported_ranking.folder)
    split = signature.graphs[Role.RANKER].split
    assert split is not None
    names = {p.name for p in exported_ranking.folder.iterdir()}
    assert {"ranker.onnx", "ranker_user.onnx", "ranker_item.onnx", "ranker_cross.onnx"} <= names
    loaded = load_split(exported_ranking.folder, split, item=True)
    assert loaded.user is not None
    assert loaded.item is not None
    raw = feed(20)
    cross = loaded.cross.session.run(
        ["probability"],
        {
            **loaded.user.run(raw),
            **loaded.item.run(raw),
            **{name: raw[name] for name in split.cross.inputs},
            **({split.count: np.array([20])} if split.count else {}),
        },
    )[0]
    np.testing.assert_allclose(cross, graphs["ranker"].run(raw), atol=1e-6)
    module = exported_ranking.source.modules[Role.RANKER].eval()
    with torch.no_grad():
        expected = module(**to_torch(raw, signature.graphs[Role.RANKER], VOCABULARIES)).numpy()
    np.testing.assert_allclose(cross, expected, atol=1e-6)
    assert split.cross.inputs == ("score",)
    assert split.hoisted == {"genres", "item", "count"}


def test_metadata_says_what_is_saved(exported_ranking: Exported) -> None:
    facts = yaml.safe_load((exported_ranking.folder / "model.yaml").read_text(encoding="utf-8"))["metadata"]["split"]
    assert facts["hoisted"] is True
    assert facts["flops_per_candidate"]["served"] < facts["flops_per_candidate"]["whole"] / 3
    assert facts["lookups_per_candidate"]["served"] == 1  # the hashed cross of user and item
    assert facts["parity"]["relative"] <= 1e-5


def test_a_retrieval_model_is_not_split(exported_retrieval: Exported) -> None:
    assert "split" not in exported_retrieval.signature.metadata
    assert all(graph.split is None for graph in exported_retrieval.signature.graphs.values())


def test_an_export_of_an_exported_model_replaces_its_split(exported_ranking: Exported, tmp_path: Path) -> None:
    again = dataclasses.replace(exported_ranking.source, signature=exported_ranking.signature)
    assert export(again, tmp_path / "m").signature.graphs == exported_ranking.signature.graphs


@pytest.fixture
def own_module(ranking: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that export a module of one's own from a signature file."""
    (tmp_path / "own_ranker_module.py").write_text(
        "from support import torch_modules\n"
        "def make():\n"
        "    return torch_modules.ranking_source().modules[torch_modules.Role.RANKER]\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ranking.signature.save(tmp_path)
    for name, vocabulary in VOCABULARIES.items():
        vocabulary.save(tmp_path / name)
    target = str(tmp_path / "out")
    return ["--module", "own_ranker_module:make", "--signature", str(tmp_path / "model.yaml"), "--output", target]


def test_the_command_prints_what_the_split_saves(own_module: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(command, own_module, obj=Location(tmp_path), catch_exceptions=False)
    assert done.exit_code == 0
    assert "ranker split: 566 -> 118 FLOPs and 8 -> 1 lookups per candidate, 72 bytes per item kept" in " ".join(
        done.output.split()
    )


def test_the_command_takes_the_options_and_says_what_they_cost(own_module: list[str], tmp_path: Path) -> None:
    arguments = [*own_module, "--quantize", "int8", "--item-columns", "float16"]
    done = CliRunner().invoke(command, [*arguments, "--json"], obj=Location(tmp_path), catch_exceptions=False)
    (row,) = json.loads(done.output)
    assert row["split"]["quantize"] == "int8"
    assert row["split"]["item_columns"] == "float16"
    assert row["split"]["item_columns_bytes"] == 8 + 32
    assert 0 < row["split"]["cost"]["mean"] < 0.05
    done = CliRunner().invoke(command, arguments, obj=Location(tmp_path), catch_exceptions=False)
    assert "int8 weights and float16 item columns change the probability by" in " ".join(done.output.split())
    whole = onnx.load(tmp_path / "out" / "ranker.onnx")
    assert not any(t.data_type == onnx.TensorProto.INT8 for t in whole.graph.initializer)
    assert Signature.load(tmp_path / "out").graphs[Role.RANKER].split is not None
