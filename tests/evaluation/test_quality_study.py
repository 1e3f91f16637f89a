"""A study runs what is missing, keeps what it has, and refuses numbers that are none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    for name in [n for n in sys.modules if n.startswith("benchmarks.quality")]:
        del sys.modules[name]


def test_runs_what_is_missing_and_shows_means_with_deviations(tmp_path):
    from benchmarks.quality.report import lines, markdown
    from benchmarks.quality.study import Options, Study, read, run

    calls: list[tuple[str, int]] = []

    def row(name: str, value: float):
        def measured(seed: int) -> dict[str, float]:
            calls.append((name, seed))
            return {"recall@20": value + seed, "minutes": 2.0}

        return measured

    study = Study(
        "toy", "a title", {"plain": row("plain", 1.0), "deep": row("deep", 2.0)}, ["recall@20"],
        once=frozenset({"plain"}), published={"theirs": {"recall@20": 0.5}},
    )  # fmt: skip
    options = Options(tmp_path, seeds=(0, 1))
    path = run(study, options, folder=tmp_path, say=lambda text: None)
    assert calls == [("plain", 0), ("deep", 0), ("deep", 1)]
    run(study, Options(tmp_path, seeds=(0, 1, 2), rows=("deep",)), folder=tmp_path, say=lambda text: None)
    assert calls[3:] == [("deep", 2)]
    head, rows = lines(read(path))
    assert head == ["", "recall@20", "seeds", "minutes"]
    assert rows == [
        ["plain", "1.0000", "1", "2.0"],
        ["deep", "3.0000 ± 1.0000", "3", "2.0"],
        ["theirs (published)", "0.5000", "", ""],
    ]
    assert "| deep | 3.0000 ± 1.0000 | 3 | 2.0 |" in markdown(read(path))


def test_what_is_not_finite_is_not_kept(tmp_path):
    from benchmarks.quality.study import Options, Study, run

    study = Study("toy", "a title", {"broken": lambda seed: {"auc": float("nan")}}, ["auc"])
    with pytest.raises(ValueError, match="auc is not finite"):
        run(study, Options(tmp_path), folder=tmp_path, say=lambda text: None)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no row other; there are broken"):
        run(study, Options(tmp_path, rows=("other",)), folder=tmp_path)


def test_a_missing_data_set_is_told_with_where_it_comes_from(tmp_path):
    from benchmarks.quality.data import gowalla

    from feast_recsys.bundle.errors import CorruptArtifact

    with pytest.raises(CorruptArtifact, match=r"train\.parquet is missing.*github\.com/geon0325/LightGCNpp"):
        gowalla(tmp_path)


def test_five_star_is_split_by_seed_as_its_recipe_says(tmp_path):
    import pandas as pd
    from benchmarks.quality.data import five_star

    users = np.repeat([0, 1, 2], [10, 5, 1])
    table = pd.DataFrame({"user_id": users, "item_id": [*range(0, 20, 2), *range(5), 7]})
    table.sample(frac=1, random_state=0).to_parquet(tmp_path / "pairs.parquet")
    found = five_star(tmp_path, 3)
    generator = np.random.default_rng(3)
    known = sorted(set(table["item_id"]))
    mine = [sorted(table["item_id"][users == u]) for u in range(3)]
    tested = [generator.permutation(len(m))[: round(0.2 * len(m))] for m in mine]
    expected = [sorted(known.index(m[i]) for i in t) for m, t in zip(mine, tested, strict=True)]
    pairs = zip(found.test.offsets, found.test.offsets[1:], strict=False)
    assert [found.test.items[a:b].tolist() for a, b in pairs] == expected
    assert found.train.lengths.tolist() == [7, 4, 1]
    assert found.valid.lengths.tolist() == [1, 0, 0]
    assert json.dumps(dict(found.checksums))
