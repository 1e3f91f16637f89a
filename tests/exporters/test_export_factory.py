"""Users' own modules by name, and their signatures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Role
from feast_recsys.exporters.export import export_model
from feast_recsys.exporters.factory import load_declaration, load_factory, modules_by_role

SOURCE = """
import torch
from torch import nn

class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.job = nn.Embedding(4, 1)  # three occupations, and row 0 for every other
        self.price = nn.Linear(1, 1)

    def forward(self, occupation, price):  # [1], [N] -> [N]
        cheap = self.price((price.clamp(0, 100) / 100).unsqueeze(-1))
        return torch.sigmoid(self.job(occupation) + cheap).squeeze(-1)

def make():
    return Ranker()

def pair():
    return {"query_encoder": nn.Identity(), "item_encoder": nn.Identity()}

def module_dict():
    return nn.ModuleDict(pair())

def wrong_role():
    return {"encoder": nn.Identity()}

def wrong_value():
    return {"ranker": 3}

def nothing():
    pass

def breaks():
    raise ValueError("no weights here")

def needs(path):
    return Ranker()

class Space:
    make = staticmethod(make)

ready = Ranker()
number = 3
"""
SIGNATURE = """
name: shop_ranking
stage: ranking
graphs:
  ranker:
    output: probability
    inputs:
      - {name: occupation, feature: "user_profile:occupation", side: user, dtype: string, vocabulary: lists/jobs.json}
      - {name: price, feature: "item_profile:price", side: item, dtype: float32, default: 9.5}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, which is the current one, with a package and a signature."""
    package = tmp_path / "shop_models"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "ranking.py").write_text(SOURCE, encoding="utf-8")
    (package / "needy.py").write_text("import surely_not_installed\n", encoding="utf-8")
    (package / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "ranking.yaml").write_text(SIGNATURE, encoding="utf-8")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "jobs.json").write_text('["artist", "baker", "clerk"]', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] == "shop_models"]:
        del sys.modules[name]


def test_a_users_own_module_becomes_an_exported_model(project: Path) -> None:
    declared = load_declaration(project / "ranking.yaml")
    modules = modules_by_role(load_factory("shop_models.ranking:make"), declared.signature)
    export_model(modules, declared.signature, declared.vocabularies, project / "exported")
    _, graphs = load_model(project / "exported")
    scores = graphs["ranker"].run(
        {"occupation": np.array(["baker"], object), "price": np.array([1.0, 50.0, 1e6], np.float32)}
    )
    assert scores.shape == (3,)
    assert ((scores > 0) & (scores < 1)).all()
    assert (project / "exported" / "jobs.json").is_file()


@pytest.mark.parametrize("attribute", ["make", "Ranker", "Space.make", "ready"])
def test_a_function_a_class_or_a_module_will_do(project: Path, attribute: str) -> None:
    path = list(sys.path)
    assert type(load_factory(f"shop_models.ranking:{attribute}")).__name__ == "Ranker"
    assert sys.path == path


@pytest.mark.parametrize("attribute", ["pair", "module_dict"])
def test_several_roles_come_as_a_mapping(project: Path, attribute: str) -> None:
    modules = load_factory(f"shop_models.ranking:{attribute}")
    assert isinstance(modules, dict)
    assert list(modules) == [Role.QUERY_ENCODER, Role.ITEM_ENCODER]
    assert modules_by_role(modules, load_declaration(project / "ranking.yaml").signature) == modules


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shop_models.ranking", "must read package.module:factory"),
        (":make", "must read package.module:factory"),
        ("shop_models.ranking:", "must read package.module:factory"),
        ("nowhere:make", "no module 'nowhere', neither installed nor in "),
        ("shop_models.nowhere:make", "no module 'shop_models.nowhere', neither installed nor in "),
        ("shop_models.needy:make", "importing shop_models.needy fails: No module named 'surely_not_installed'"),
        ("shop_models.broken:make", "importing shop_models.broken fails: ZeroDivisionError: division by zero"),
        ("shop_models.ranking:missing", "shop_models.ranking has no 'missing'"),
        ("shop_models.ranking:number", "is a int; name a function without arguments"),
        ("shop_models.ranking:nothing", "gives a NoneType; return a torch.nn.Module, or a mapping of role to module"),
        ("shop_models.ranking:wrong_role", "'encoder' is no role; roles are query_encoder, item_encoder, ranker"),
        ("shop_models.ranking:wrong_value", "ranker is a int; return a torch.nn.Module"),
        ("shop_models.ranking:breaks", "calling shop_models.ranking:breaks fails: ValueError: no weights here"),
        ("shop_models.ranking:needs", "missing 1 required positional argument"),
    ],
)
def test_what_can_not_be_loaded_is_named(project: Path, spec: str, message: str) -> None:
    path = list(sys.path)
    with pytest.raises(InvalidSignature) as caught:
        load_factory(spec)
    assert message in caught.value.message
    assert caught.value.field == "factory"
    assert sys.path == path


def test_one_module_is_not_enough_for_two_roles(project: Path) -> None:
    encoders = SIGNATURE.replace("stage: ranking", "stage: retrieval\ndimension: 4")
    start = encoders.index("graphs:")
    encoders = encoders[:start] + (
        "graphs:\n"
        '  query_encoder: {output: q, inputs: [{feature: "u:x", side: user, dtype: int64}]}\n'
        '  item_encoder: {output: v, inputs: [{feature: "i:x", side: item, dtype: int64}]}\n'
    )
    (project / "retrieval.yaml").write_text(encoders, encoding="utf-8")
    signature = load_declaration(project / "retrieval.yaml").signature
    with pytest.raises(InvalidSignature, match="the graphs query_encoder, item_encoder; the factory must return a map"):
        modules_by_role(nn.Identity(), signature)


def test_a_folder_with_model_yaml_is_a_declaration_too(project: Path) -> None:
    (project / "model.yaml").write_text(SIGNATURE, encoding="utf-8")
    declared = load_declaration(project)
    assert declared.vocabularies["lists/jobs.json"].keys == ("artist", "baker", "clerk")
    assert declared == load_declaration(project / "ranking.yaml")


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}', '["a", "a"]', '["a", 1]', "[1.5]"])
def test_a_vocabulary_that_is_missing_or_broken_is_named_with_its_feature(project: Path, content: str | None) -> None:
    file = project / "lists" / "jobs.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidSignature, match=r"^user_profile:occupation: ") as caught:
        load_declaration(project / "ranking.yaml")
    assert caught.value.field == "graphs.ranker.occupation.vocabulary"


def test_the_items_whose_sound_is_not_read_are_named_in_a_file_beside_the_signature(project: Path) -> None:
    sound = """{name: sound, feature: "item_profile:file", side: item, dtype: float32, max_length: 60, audio: {mels: 6},
       known: lists/known.json}"""
    (project / "heard.yaml").write_text(
        f"""
name: heard
stage: retrieval
dimension: 4
graphs:
  query_encoder: {{inputs: []}}
  item_encoder:
    inputs:
    - {sound}
"""
    )
    with pytest.raises(InvalidSignature, match=r"item_profile:file: .*known\.json") as caught:
        load_declaration(project / "heard.yaml")
    assert caught.value.field == "graphs.item_encoder.sound.known"
    (project / "lists").mkdir(exist_ok=True)
    (project / "lists/known.json").write_text("[3, 5]")
    assert load_declaration(project / "heard.yaml").vocabularies["lists/known.json"].keys == (3, 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", vocabulary: lists/jobs.json", "", "user_profile:occupation is a string"),
        ("dtype: float32", "dtype: float64", "float64"),
        ("default: 9.5", "default: cheap", "item_profile:price: default 'cheap' is no float32"),
        ("side: item", "side: product", "product"),
        ("dtype: float32, ", "", "price lacks `dtype`"),
    ],
)
def test_a_wrong_signature_names_the_input(project: Path, old: str, new: str, message: str) -> None:
    (project / "ranking.yaml").write_text(SIGNATURE.replace(old, new), encoding="utf-8")
    with pytest.raises(InvalidSignature) as caught:
        load_declaration(project / "ranking.yaml")
    assert message in caught.value.message


def test_a_signature_that_is_not_there(project: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"absent\.yaml"):
        load_declaration(project / "absent.yaml")


def test_the_current_directory_is_looked_at_first(project: Path) -> None:
    (project / "json_of_mine.py").write_text("from torch import nn\nmake = nn.Identity\n", encoding="utf-8")
    assert isinstance(load_factory("json_of_mine:make"), nn.Identity)
    assert json.loads("1") == 1
    del sys.modules["json_of_mine"]
