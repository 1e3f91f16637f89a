"""A small music catalogue: tones as files, numbers that describe them, and listeners who like it low or high."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from feast import ValueType
from feast.types import Array, Float32, Int64, String
from support.feast_repo import View, at, feast_repo

from feast_recsys.features.repo import Repo

# Even tracks are low, odd ones high; the last four were never played. Even listeners like it low.
TRACKS, NEW, LISTENERS, PLAYS = 24, 4, 40, 9
RATE = 4000
USAGE = {"dimension": 6, "regularization": 1.0, "threshold": 3, "bias": 0.1}
NUMBERS = {**USAGE, "hidden": [16], "dropout": 0.0, "epochs": 40, "learning_rate": 0.01}
SOUND = {
    **USAGE, "bias": 0.0, "rate": RATE, "n_fft": 128, "hop": 64, "mels": 8, "frames": 8, "windows": 2, "widths": [8],
    "pools": [], "kernel": 3, "dense": [16], "dropout": 0.0, "epochs": 25, "learning_rate": 0.01, "batch": 8,
}  # fmt: skip
FAMILIES: Mapping[str, Mapping[str, Any]] = {"numbers": NUMBERS, "sound": SOUND}


def is_high(track: int) -> bool:
    return track % 2 == 1


def build_music(folder: Path, families: Mapping[str, Mapping[str, Any]] = FAMILIES) -> Repo:
    """A repository of tones: listeners like it low or high, and no play says so of the new tracks.

    Args:
        folder: Where.
        families: Hyperparameters by name of the recommender: `numbers` of family content, `sound` of family audio.
    """
    random = np.random.default_rng(5)
    (folder / "sound").mkdir(parents=True)
    tracks = list(range(1, TRACKS + 1))
    pitches = [random.uniform(900, 1400) if is_high(t) else random.uniform(200, 400) for t in tracks]
    for track, pitch in zip(tracks, pitches, strict=True):
        wave = 0.4 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE) + 0.01 * random.standard_normal(RATE)
        soundfile.write(folder / f"sound/{track}.wav", wave.astype(np.float32), RATE)
    plays, histories = _plays(random)
    items = pd.DataFrame(
        {
            "track_id": tracks,
            "title": [f"track {t}" for t in tracks],
            "pitch": np.array(pitches, np.float32),
            "bands": [[p / 1000, 1.0, float(np.sqrt(p))] for p in pitches],
            "path": [f"sound/{t}.wav" if t != 7 else None for t in tracks],
            "event_timestamp": at(-10),
        }
    )
    repo = feast_repo(
        folder,
        [
            View("track", "track", {"title": String, "pitch": Float32, "bands": Array(Float32), "path": String}, items),
            View("listened", "listener", {"track_ids": Array(Int64)}, histories),
        ],
        user="listener", item="track", user_key="listener_id", item_key="track_id",
        user_type=ValueType.INT64, item_type=ValueType.INT64,
        services={
            "listener": ["listened:track_ids"], "numbers": ["track:pitch", "track:bands"], "sound": ["track:path"],
            "titles": ["track:title"],
        },
        settings={
            "catalogue": "track",
            "interactions": {"path": "plays.parquet"},
            "serving": {"address": "127.0.0.1:0", "store_timeout_ms": 5000},
            "recommenders": {
                name: {
                    "retrieval": {
                        "family": "content" if name == "numbers" else "audio", "query": "listener", "item": name,
                        "history": "listened:track_ids", "hyperparameters": values,
                        **({"audio": "track:path"} if name == "sound" else {}),
                    },
                    "ranking": None, "seen": ["listened:track_ids"], "candidates": 8, "title": "track:title",
                }
                for name, values in families.items()
            },
        },
    )  # fmt: skip
    pq.write_table(plays, folder / "plays.parquet")
    return repo


def _plays(random: np.random.Generator) -> tuple[pa.Table, pd.DataFrame]:
    rows, histories = [], []
    for listener in range(LISTENERS):
        own = [t for t in range(1, TRACKS - NEW + 1) if is_high(t) == is_high(listener)]
        chosen = random.permutation(own)[:PLAYS].tolist()
        for n, track in enumerate(chosen):
            rows.append((listener, track, at(1000.0 * n + listener)))
            histories.append((listener, chosen[: n + 1][::-1], at(1000.0 * n + listener)))
    plays = pd.DataFrame(rows, columns=["listener_id", "track_id", "event_timestamp"])
    table = pd.DataFrame(histories, columns=["listener_id", "track_ids", "event_timestamp"])
    return pa.Table.from_pandas(plays, preserve_index=False), table
