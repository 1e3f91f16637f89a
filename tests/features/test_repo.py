"""Opening a repository, and the keys of its users and items."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import ValueType
from feast.types import Int64
from hypothesis import given
from hypothesis import strategies as st
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository, InvalidSettings
from feast_recsys.bundle.signature import Side
from feast_recsys.features.repo import EntityKey, Repo, entity_key, open_repo

CLICKS = pd.DataFrame({"user_id": [1], "event_timestamp": [at(0)], "n": [1]})
NUMBER = EntityKey("user", "user_id", DType.INT64)
TEXT = EntityKey("user", "handle", DType.STRING)


def build(folder: Path, **options: Any) -> Repo:
    return feast_repo(folder, [View("clicks", "user", {"n": Int64}, CLICKS)], **options)


def test_opening_touches_neither_registry_nor_store(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text(
        "project: p\nregistry: sub/registry.db\nprovider: local\nonline_store: {type: sqlite, path: sub/online.db}\n"
        "recsys: {catalogue: items, recommenders: {things: {}}}\n"
    )
    repo = open_repo(tmp_path)
    assert repo.settings.catalogue == "items"
    assert repo.path == tmp_path.resolve()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["feature_store.yaml"]


def test_paths_of_settings_start_from_the_folder_of_the_repository(tmp_path: Path) -> None:
    repo = build(tmp_path)
    assert repo.resolve("data/bundles") == tmp_path.resolve() / "data" / "bundles"
    assert repo.resolve("/elsewhere") == Path("/elsewhere")


def test_another_configuration_file_over_the_same_folder(tmp_path: Path) -> None:
    build(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "feature_store.yaml").read_text().replace("catalogue: catalogue", "catalogue: goods"))
    repo = open_repo(tmp_path, other)
    assert repo.settings.catalogue == "goods"
    assert entity_key(repo, Side.USER) == NUMBER


def test_environment_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path)
    file = tmp_path / "feature_store.yaml"
    file.write_text(file.read_text().replace("catalogue: catalogue", "catalogue: ${WHICH_CATALOGUE}"))
    monkeypatch.setenv("WHICH_CATALOGUE", "from_outside")
    assert open_repo(tmp_path).settings.catalogue == "from_outside"


@pytest.mark.parametrize(
    "text", ["", "- a list", "project: [", "provider: local\n", "project: p\nonline_store: {type: 7}"]
)
def test_a_configuration_that_feast_refuses(tmp_path: Path, text: str) -> None:
    (tmp_path / "feature_store.yaml").write_text(text)
    with pytest.raises(InvalidRepository, match=r"feature_store\.yaml"):
        open_repo(tmp_path)


def test_a_missing_configuration(tmp_path: Path) -> None:
    with pytest.raises(InvalidRepository, match=r"feature_store\.yaml does not exist"):
        open_repo(tmp_path)


def test_a_configuration_without_our_section(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: p\nregistry: r.db\nprovider: local\n")
    with pytest.raises(InvalidSettings, match="recsys"):
        open_repo(tmp_path)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(ValueType.INT64, DType.INT64), (ValueType.INT32, DType.INT64), (ValueType.STRING, DType.STRING)],
)
def test_the_keys_of_users_and_items(tmp_path: Path, kind: ValueType, dtype: DType) -> None:
    repo = feast_repo(tmp_path, [], user="person", user_key="pid", item="song", item_key="song", item_type=kind)
    assert entity_key(repo, Side.USER) == EntityKey("person", "pid", DType.INT64)
    assert entity_key(repo, Side.ITEM) == EntityKey("song", "song", dtype)


@pytest.mark.filterwarnings("ignore:Entity value_type will be mandatory:DeprecationWarning")  # that is the case tested
def test_an_entity_without_a_type_has_the_one_that_feast_found_in_the_data(tmp_path: Path) -> None:
    rows = pd.DataFrame({"user_id": ["a"], "event_timestamp": [at(0)], "n": [1]})
    views = [View("clicks", "user", {"n": Int64}, rows)]
    repo = feast_repo(tmp_path, views, user_type=ValueType.UNKNOWN)
    assert entity_key(repo, Side.USER) == EntityKey("user", "user_id", DType.STRING)


def test_an_entity_that_does_not_exist_names_the_setting_and_those_that_do(tmp_path: Path) -> None:
    repo = build(tmp_path, settings={"item": "product"})
    with pytest.raises(InvalidRepository, match=r"'product' \(recsys\.item\).*item, user"):
        entity_key(repo, Side.ITEM)


def test_ids_of_another_type_are_refused(tmp_path: Path) -> None:
    repo = feast_repo(tmp_path, [], user_type=ValueType.BYTES)
    with pytest.raises(InvalidRepository, match="BYTES"):
        entity_key(repo, Side.USER)


def test_context_has_no_entity(tmp_path: Path) -> None:
    with pytest.raises(InvalidRepository, match="request"):
        entity_key(build(tmp_path), Side.CONTEXT)


@given(st.integers(-(2**63), 2**63 - 1))
def test_number_ids_survive_the_wire(value: int) -> None:
    assert NUMBER.parse(NUMBER.format(value)) == value


@given(st.text(min_size=1))
def test_string_ids_survive_the_wire(value: str) -> None:
    assert TEXT.parse(TEXT.format(value)) == value


@pytest.mark.parametrize(
    "text", ["", "abc", "1.0", "1e3", " 1", "1 ", "+1", "--1", "1_000", "٣", "01", "-01", "-0", str(2**63), "9" * 5000]
)
def test_text_that_is_no_number_names_the_key(text: str) -> None:
    with pytest.raises(InvalidArgument, match="user_id") as caught:
        NUMBER.parse(text)
    assert caught.value.field == "user_id"
    assert caught.value.message.count("user_id") == 1
    with pytest.raises(InvalidArgument) as caught:
        NUMBER.parse(text, "user_ids[1]")
    assert caught.value.field == "user_ids[1]"
    assert caught.value.message.startswith("user_ids[1] ")


@given(st.text("0123456789+- ", max_size=4))
def test_an_id_has_one_text(text: str) -> None:
    try:
        value = NUMBER.parse(text)
    except InvalidArgument:
        return
    assert NUMBER.format(value) == text


def test_an_empty_string_id_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="handle"):
        TEXT.parse("")


def test_importing_feast_through_us_leaves_prometheus_as_it_was() -> None:
    program = (
        "import os, json, feast_recsys.features.repo\n"
        "from prometheus_client import values\n"
        "print(json.dumps([[k for k in os.environ if k.startswith('PROMETHEUS')], values.ValueClass.__name__]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={})
    assert json.loads(done.stdout) == [[], "MutexValue"]


def test_variables_that_the_operator_set_stay(tmp_path: Path) -> None:
    program = "import os, feast_recsys.features.repo\nprint(os.environ.get('PROMETHEUS_MULTIPROC_DIR'))"
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(tmp_path)
