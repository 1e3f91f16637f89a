"""Invented ratings in MovieLens' own file format: no rating data is in this repository."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

FEATURE_REPO = Path(__file__).parents[2] / "feature_repo"
sys.path.insert(0, str(FEATURE_REPO))  # its programs are run by path, not installed

HEADERS = {
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
    "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
}
METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}


def write_wheel(path: Path, tables: Mapping[str, list[str]]) -> Path:
    """A wheel that pip accepts as recbole 1.2.1, with the given lines as its three tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in METADATA.items():
            archive.writestr(f"recbole-1.2.1.dist-info/{name}", text)
        for name, header in HEADERS.items():
            lines = "\n".join([header, *tables[name]]) + "\n"
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{name}", lines.encode())
    return path


def generated_tables(users: int = 12, items: int = 30, seed: int = 0) -> dict[str, list[str]]:
    """Every user rates a third of the items in sittings of few seconds, so that most moments are shared."""
    rng = np.random.default_rng(seed)
    ratings = []
    for user in range(1, users + 1):
        sittings = 875_000_000 + np.sort(rng.integers(0, 90 * 86_400, size=3))
        for item in rng.choice(np.arange(1, items + 1), size=items // 3, replace=False):
            moment = rng.choice(sittings) + rng.integers(0, 2)
            ratings.append(f"{user}\t{item}\t{rng.integers(1, 6)}\t{moment}")
    genres = ("Comedy", "Drama", "Children's Musical", "unknown")
    return {
        "inter": ratings,
        "user": [f"{user}\t{20 + user}\t{'MF'[user % 2]}\tlibrarian\t0{user:04d}" for user in range(1, users + 1)],
        "item": [f"{item}\tMovie {item}\t{1960 + item}\t{genres[item % 4]}" for item in range(1, items + 1)],
    }


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return write_wheel(tmp_path / "index" / "recbole-1.2.1-py3-none-any.whl", generated_tables())


@pytest.fixture(scope="session")
def scratch_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the Feast repo without its data, filled with generated data instead; not applied yet."""
    from prepare import prepare

    folder = tmp_path_factory.mktemp("movielens")
    repo = folder / "feature_repo"
    shutil.copytree(FEATURE_REPO, repo, ignore=shutil.ignore_patterns("data", "__pycache__", ".recsys"))
    prepare(write_wheel(folder / "recbole.whl", generated_tables()), repo / "data")
    return repo
