"""The census study runs on a table of the census's form, and leaves out what it says it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks.quality import census
from benchmarks.quality.study import Options

WORDS = {
    "workclass": ("?", "Private", "State-gov"),
    "education": ("Bachelors", "HS-grad", "11th"),
    "marital-status": ("Never-married", "Divorced"),
    "occupation": ("?", "Craft-repair", "Exec-managerial", "Sales"),
    "relationship": ("Husband", "Unmarried"),
    "race": ("White", "Black"),
    "gender": ("Male", "Female"),
    "native-country": ("?", "Mexico"),
}
NUMBERS = {
    "age": 90,
    "fnlwgt": 400_000,
    "educational-num": 16,
    "capital-gain": 9,
    "capital-loss": 9,
    "hours-per-week": 99,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gender alone decides who earns much, so nobody who leaves it out can tell."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "adult").mkdir()
    random = np.random.default_rng(0)
    for part, n in (("train", 600), ("test", 400)):
        frame = pd.DataFrame({name: random.choice(words, n) for name, words in WORDS.items()})
        for name, most in NUMBERS.items():
            frame[name] = random.integers(0, most, n).astype(np.int32)
        frame["income"] = np.where(frame["gender"] == "Male", ">50K", "<=50K")
        frame.to_parquet(folder / "adult" / f"{part}.parquet")
    return folder


def test_every_row_is_measured_and_none_sees_what_is_left_out(data: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        study = census.study(Options(data, small=True))
        assert list(study.rows) == ["majority class", "wide", "deep", "wide & deep", "LightGBM"]
        for row in study.rows.values():
            found = row(0)
            assert set(study.metrics) <= set(found)
            assert 0.35 < found["auc"] < 0.65
            assert found["log_loss"] > 0.6
    finally:
        torch.set_num_threads(threads)
