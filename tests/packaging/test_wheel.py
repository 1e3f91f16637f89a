"""The wheel holds every room and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
ROOMS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["dev-mode-dirs"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_top_level_is_the_namespace_alone(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"feast_recsys"}
    assert len(tops) == 2


def test_every_room_is_there_with_its_types(wheel: list[str]) -> None:
    packages = {name.split("/")[1] for name in wheel if name.startswith("feast_recsys/")}
    assert packages == {"v1" if room == "protos" else room for room in ROOMS}
    for package in packages:
        assert f"feast_recsys/{package}/__init__.py" in wheel
        assert f"feast_recsys/{package}/py.typed" in wheel


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: list[str]) -> None:
    modules = {p.relative_to(ROOT / room).as_posix() for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    assert modules
    assert modules <= set(wheel)


def test_no_portion_closes_the_namespace() -> None:
    """An __init__.py right in X/feast_recsys would hide every other portion of an editable install."""
    assert [str(p) for room in ROOMS for p in (ROOT / room / "feast_recsys").glob("__init__.py")] == []


def test_every_list_of_rooms_in_pyproject_is_the_same() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    wheel = document["hatch"]["build"]["targets"]["wheel"]
    code = set(ROOMS) - {"protos"}
    assert set(wheel["sources"]) == set(ROOMS)
    assert set(wheel["only-include"]) == {f"{room}/feast_recsys" for room in ROOMS}
    assert set(document["mypy"]["files"]) == code | {"benchmarks"}
    assert set(document["mypy"]["mypy_path"]) == {f"$MYPY_CONFIG_FILE_DIR/{room}" for room in ROOMS}
    assert set(document["pyright"]["include"]) == code
    assert set(document["pyright"]["extraPaths"]) == set(ROOMS)
    assert set(document["ruff"]["src"]) == set(ROOMS)
    roots = {f"feast_recsys.{'v1' if room == 'protos' else room}" for room in ROOMS}
    assert set(document["importlinter"]["root_packages"]) == roots
