"""What `export_model` writes, and that ONNX Runtime computes on raw values what torch computes on rows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from support.torch_modules import ITEMS, VOCABULARIES, Exported, Source
from torch import Tensor, nn

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import InvalidArgument, ParityFailed
from feast_recsys.bundle.folders import replace_folder
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage, to_dict
from feast_recsys.bundle.tensors import to_tensors
from feast_recsys.exporters.export import export_model
from feast_recsys.exporters.inputs import to_torch


def _dims(path: Path) -> dict[str, list[int | str]]:
    model = onnx.load(path)
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }


def test_serves_what_torch_computes_on_columns_with_nulls_and_unknown_values(exported_retrieval: Exported) -> None:
    signature, graphs = load_model(exported_retrieval.folder)
    columns = {
        "user_history:item_ids": Column.of(DType.INT64, [[10, 58, 999], [], None, [12] * 9], is_list=True),
        "user_profile:gender": Column.of(DType.STRING, ["M", None, "", "ünbekannt"]),
        "user_profile:age": Column.of(DType.INT64, [21, None, -3, 10**12]),
    }
    graph = signature.graphs[Role.QUERY_ENCODER]
    tensors = to_tensors(columns, graph.inputs)
    module = exported_retrieval.source.modules[Role.QUERY_ENCODER].eval()
    with torch.no_grad():
        expected = module(
            history=torch.tensor([[1, 25, 0, 0, 0], [0] * 5, [0] * 5, [2] * 5]),
            gender=torch.tensor([2, 0, 0, 3]),
            age=torch.tensor([21, 30, -3, 10**12]),
        )
    np.testing.assert_allclose(graphs["query_encoder"].run(tensors), expected.numpy(), atol=1e-6)


def test_a_ranker_takes_one_user_and_any_number_of_candidates(exported_ranking: Exported) -> None:
    signature, graphs = load_model(exported_ranking.folder)
    graph = signature.graphs[Role.RANKER]
    module = exported_ranking.source.modules[Role.RANKER].eval()
    for n in (1, 2, 500):
        feed = {
            "history": np.array([[10, 11, 12]]),
            "gender": np.array(["F"], object),
            "genres": np.array([["Drama", "日本"]] * n, object),
            "item": np.arange(n) + 10,
            "count": np.arange(n),
            "score": np.linspace(-1, 1, n, dtype=np.float32),
        }
        with torch.no_grad():
            expected = module(**to_torch(feed, graph, VOCABULARIES)).numpy()
        actual = graphs["ranker"].run(feed)
        assert actual.shape == (n,)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_an_unknown_key_is_row_zero_and_not_the_last_row(exported_retrieval: Exported) -> None:
    _, graphs = load_model(exported_retrieval.folder)
    ids = np.array([ITEMS.keys[-1], -1, 0, 59, 2**63 - 1])
    vectors = graphs["item_encoder"].run(
        {"embedding": ids, "cat": np.full((5, 1), "", object), "linear": np.zeros(5, np.float32)}
    )
    assert np.ptp(vectors[1:], axis=0).max() < 1e-6
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01


def test_batch_and_lengths_are_dynamic_and_named(exported_retrieval: Exported, exported_ranking: Exported) -> None:
    assert _dims(exported_retrieval.folder / "query_encoder.onnx") == {
        "history": ["batch", "history_length"],
        "gender": ["batch"],
        "age": ["batch"],
        "query": ["batch", 6],
    }
    assert _dims(exported_ranking.folder / "ranker.onnx") == {
        "history": [1, "history_length"],
        "gender": [1],
        "genres": ["candidates", "genres_length"],
        "item": ["candidates"],
        "count": ["candidates"],
        "score": ["candidates"],
        "probability": ["candidates"],
    }


def test_files_are_of_the_versions_that_old_runtimes_read(exported_retrieval: Exported) -> None:
    for role in ("query_encoder", "item_encoder"):
        model = onnx.load(exported_retrieval.folder / f"{role}.onnx")
        assert model.ir_version == 10
        assert sorted((o.domain, o.version) for o in model.opset_import) == [("", 18), ("ai.onnx.ml", 3)]
        assert model.graph.name == role


def test_one_folder_holds_all(exported_retrieval: Exported) -> None:
    assert sorted(p.name for p in exported_retrieval.folder.iterdir()) == [
        "genders.json",
        "genres.json",
        "item_encoder.onnx",
        "items.json",
        "model.yaml",
        "query_encoder.onnx",
    ]
    assert Signature.load(exported_retrieval.folder) == exported_retrieval.signature
    assert [p.name for p in exported_retrieval.folder.parent.iterdir()] == ["movies_retrieval"]


def test_metadata_tells_origin_features_vocabularies_and_parity(exported_retrieval: Exported) -> None:
    metadata = yaml.safe_load((exported_retrieval.folder / "model.yaml").read_text(encoding="utf-8"))["metadata"]
    assert metadata["training"] == {"fingerprint": "abc"}
    assert metadata["metrics"] == {"recall_at_50": 0.25}
    assert metadata["versions"]["torch"] == torch.__version__
    assert {"onnx", "onnxruntime", "feast-recsys"} <= set(metadata["versions"])
    assert metadata["features"]["query_encoder"] == [
        "user_history:item_ids",
        "user_profile:gender",
        "user_profile:age",
    ]
    assert metadata["vocabularies"]["items.json"] == {"keys": 25, "fingerprint": ITEMS.fingerprint}
    assert metadata["parity"]["tolerance"] == 1e-5
    for role in ("query_encoder", "item_encoder"):
        parity = metadata["parity"]["graphs"][role]
        assert parity["cases"] > 40
        assert 0 <= parity["absolute"] <= 1e-5
        assert 0 <= parity["relative"] <= 1e-5
    properties = {p.key: p.value for p in onnx.load(exported_retrieval.folder / "query_encoder.onnx").metadata_props}
    assert properties["feast_recsys.model"] == "movies_retrieval"
    assert json.loads(properties["feast_recsys.features"]) == metadata["features"]["query_encoder"]
    assert json.loads(properties["feast_recsys.vocabularies"])["items.json"] == ITEMS.fingerprint
    assert json.loads(properties["feast_recsys.versions"]) == metadata["versions"]


def test_files_do_not_tell_where_they_were_made(exported_ranking: Exported) -> None:
    content = (exported_ranking.folder / "ranker.onnx").read_bytes()
    for path in (str(Path.cwd()), str(Path(torch.__file__).parent), str(exported_ranking.folder.parent)):
        assert path.encode() not in content


def test_the_same_module_gives_the_same_bytes(exported_ranking: Exported, ranking: Source, tmp_path: Path) -> None:
    ranking.modules[Role.RANKER].load_state_dict(exported_ranking.source.modules[Role.RANKER].state_dict())
    again = export_model(ranking.modules, ranking.signature, ranking.vocabularies, tmp_path / "m")
    assert again.graphs[Role.RANKER].sha256 == exported_ranking.signature.graphs[Role.RANKER].sha256


def test_loads_without_torch_and_without_any_file_beside(exported_retrieval: Exported, tmp_path: Path) -> None:
    shutil.copy(exported_retrieval.folder / "query_encoder.onnx", tmp_path)
    script = """
import json, sys
from pathlib import Path
import numpy as np
from feast_recsys.bundle.runtime import load_graph
from feast_recsys.bundle.signature import Role, from_dict
graph = from_dict(json.loads(sys.argv[2])).graphs[Role.QUERY_ENCODER]
feed = {"history": np.array([[10, 0]]), "gender": np.array(["F"], object), "age": np.array([30])}
vector = load_graph(Path(sys.argv[1]), graph).run(feed)
print(json.dumps([vector.shape, "torch" in sys.modules, "onnx" in sys.modules]))
"""
    signature = json.dumps(to_dict(exported_retrieval.signature))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), signature],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout) == [[1, 6], False, False]


def test_export_prints_nothing(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support import torch_modules
source = torch_modules.ranking_source()
source.modules[torch_modules.Role.RANKER].eval()
print("before", file=sys.stderr)
torch_modules.export(source, Path(sys.argv[2]) / "m")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parents[1]), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert done.stderr.split("before\n", 1)[1] == ""


class _Request(nn.Module):
    """A user's own ranker: a bool of the item, a number of the context, a list that it leaves unused."""

    def forward(self, is_new: Tensor, hour: Tensor, boost: Tensor, spare: Tensor) -> Tensor:
        late = (hour.clamp(0, 23) >= 18).to(torch.float32)
        return torch.sigmoid(is_new.to(torch.float32) * late + boost.clamp(-3, 3))


def _own_signature() -> Signature:
    inputs = (
        Input("is_new", "item_profile:is_new", Side.ITEM, DType.BOOL, default=False),
        Input("hour", "request:hour", Side.CONTEXT, DType.INT64, default=12),
        Input("boost", "request:boost", Side.ITEM, DType.FLOAT32, default=0.0),
        Input("spare", "item_profile:tags", Side.ITEM, DType.STRING, 4, "", "", vocabulary="genres.json"),
    )
    return Signature("own", Stage.RANKING, {Role.RANKER: Graph(Role.RANKER, inputs, "score")})


def test_request_and_bool_inputs_and_an_unused_one_that_stays(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    written = export_model({Role.RANKER: _Request()}, _own_signature(), VOCABULARIES, folder)
    assert written.metadata["unused_inputs"] == {"ranker": ["spare"]}
    signature, graphs = load_model(folder)
    assert signature == written
    scores = graphs["ranker"].run(
        {
            "is_new": np.array([True, False]),
            "hour": np.array([20]),
            "boost": np.zeros(2, np.float32),
            "spare": np.array([["a"], ["b"]], object),
        }
    )
    np.testing.assert_allclose(scores, [1 / (1 + np.exp(-1)), 0.5], rtol=1e-6)


def test_only_vocabularies_in_use_are_written(tmp_path: Path) -> None:
    export_model({Role.RANKER: _Request()}, _own_signature(), VOCABULARIES, tmp_path / "own")
    assert sorted(p.name for p in (tmp_path / "own").iterdir()) == ["genres.json", "model.yaml", "ranker.onnx"]


def test_modules_keep_the_mode_that_they_came_in(tmp_path: Path) -> None:
    module = nn.Sequential()  # only its mode matters
    ranker = _Request()
    ranker.frozen = module
    ranker.train()
    module.eval()
    export_model({Role.RANKER: ranker}, _own_signature(), VOCABULARIES, tmp_path / "own")
    assert ranker.training
    assert not module.training


class _Broken(_Request):
    def forward(self, is_new: Tensor, hour: Tensor, boost: Tensor, spare: Tensor) -> Tensor:
        off = 0.25 if torch.onnx.is_in_onnx_export() else 0.0
        return super().forward(is_new, hour, boost, spare) * 0.5 + off


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match=r"differ by 0\.25"):
        export_model({Role.RANKER: _Broken()}, _own_signature(), VOCABULARIES, tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_an_exported_model_is_replaced_on_success_and_kept_on_failure(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    export_model({Role.RANKER: _Request()}, _own_signature(), VOCABULARIES, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ParityFailed):
        export_model({Role.RANKER: _Broken()}, _own_signature(), VOCABULARIES, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    class Half(_Request):
        def forward(self, is_new: Tensor, hour: Tensor, boost: Tensor, spare: Tensor) -> Tensor:
            return super().forward(is_new, hour, boost, spare) * 0.5

    (folder / "left_over.json").write_text("[]", encoding="utf-8")
    export_model({Role.RANKER: Half()}, _own_signature(), VOCABULARIES, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["genres.json", "model.yaml", "ranker.onnx"]
    assert (folder / "ranker.onnx").read_bytes() != before["ranker.onnx"]
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_the_old_model_is_back_when_the_new_one_can_not_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.yaml").write_text("old", encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "no_draft", tmp_path / "own")
    assert (tmp_path / "own" / "model.yaml").read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize(
    "files", [["notes.txt"], ["model.yaml", "genres.json"], ["model.yaml", "ranker.onnx", "train.py"], ["weights.onnx"]]
)
def test_a_folder_with_anything_else_is_not_replaced(files: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidArgument, match="folder of its own"):
        export_model({Role.RANKER: _Request()}, _own_signature(), VOCABULARIES, folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted(files)


def test_a_file_or_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "link"):
        with pytest.raises(InvalidArgument, match="is no folder"):
            export_model({Role.RANKER: _Request()}, _own_signature(), VOCABULARIES, tmp_path / name)


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for folder in (tmp_path / "own", tmp_path / "a" / "b" / "own"):
        export_model({Role.RANKER: _Request()}, _own_signature(), VOCABULARIES, folder)
        assert (folder / "ranker.onnx").is_file()
