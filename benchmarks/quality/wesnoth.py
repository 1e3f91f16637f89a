"""Raw sound end to end: the music of Battle for Wesnoth, scenarios as users, each track left out in turn.

There are 33 tracks with at least five uses, so this shows that the path works and is no place to tune: the settings
were set once, before the first run. Unpack Debian's package wesnoth-1.16-music into `wesnoth-music/sound` of the data
folder, or name the folder of the ogg files in the environment variable WESNOTH_MUSIC.

A left-out track gets a score from each scenario with another track: the cosine of its predicted factors and the mean of
the scenario's others. AUC is over scenarios, those that play the track against the rest; then the mean over tracks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.quality.data import Wesnoth, wesnoth
from benchmarks.quality.study import Options, Study

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.predictions import auc
from feast_recsys.features.audio import LogMel, decode, log_mel
from feast_recsys.models.content.factors import FactorConfig, Factors, usage_factors
from feast_recsys.models.content.training import (
    AudioConfig,
    fit_sound,
    sound_vectors,
)
from feast_recsys.models.data.histories import Floats, Histories
from feast_recsys.models.training.loop import Run

SOUND = LogMel(windows=3)
FACTORS = FactorConfig(dimension=4, threshold=1)
NETWORK = AudioConfig(widths=(32, 32, 64, 64), dense=(128, 128), epochs=30, batch=16, learning_rate=1e-3)
PENALTY = 100.0
USES = 5
SECONDS = 120.0


def study(options: Options) -> Study:
    """Rows of the table."""
    folder = options.data / "wesnoth-music"
    network = replace(NETWORK, epochs=2) if options.small else NETWORK
    rows = {
        "mean factor": partial(_mean, folder),
        "linear on pooled bands": partial(_linear, folder, False),
        "linear on shuffled sound": partial(_linear, folder, True),
        "CNN": partial(_network, folder, network, False),
        "CNN on shuffled sound": partial(_network, folder, network, True),
    }
    return Study(
        name="wesnoth",
        title="Wesnoth's music: 33 tracks left out in turn, AUC over scenarios, mean over tracks",
        rows=rows,
        metrics=("auc", "auc se over tracks"),
        facts={
            "checksums": dict(_data(folder).checksums), "log-mel": asdict(SOUND), "factors": asdict(FACTORS),
            "network": asdict(network), "ridge penalty": PENALTY, "seconds of a track": SECONDS,
            "chosen by": "nothing: settings as they were before the first run",
        },
        notes=("The standard error is over tracks, and does not tell of scenarios that share playlists.",),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _data(folder: Path) -> Wesnoth:
    return wesnoth(folder)


@lru_cache(maxsize=1)
def _mels(folder: Path) -> tuple[Floats, ...]:
    """Of all tracks: the middle minutes of each."""
    named = os.environ.get("WESNOTH_MUSIC")
    music = Path(named) if named else folder / "sound"
    if not music.is_dir():
        raise InvalidArgument(
            f"there is no folder {music}: apt-get download wesnoth-1.16-music, dpkg -x it, and name the folder of its "
            "ogg files in WESNOTH_MUSIC",
            field="data",
        )
    return tuple(log_mel(decode(music / track, SOUND.rate, seconds=SECONDS), SOUND) for track in _data(folder).tracks)


Predict = Callable[[Factors, npt.NDArray[np.int64], int], Any]
"""Factors, the tracks to learn from, and the left-out one to its predicted factors [d]."""


def _leave_one_out(folder: Path, seed: int, predict: Predict) -> Mapping[str, float]:
    playlists = _data(folder).playlists
    usable = np.flatnonzero(np.bincount(playlists.items, minlength=playlists.catalogue) >= USES)
    found = []
    for track in usable.tolist():
        kept = np.isin(playlists.items, usable) & (playlists.items != track)
        rest = Histories.from_pairs(
            playlists.users[kept], playlists.items[kept], playlists.catalogue, size=len(playlists)
        )
        factors = usage_factors(rest, FACTORS, Run(seed=seed))
        vector = np.asarray(predict(factors, usable[usable != track], track), np.float64)
        queries = rest.matrix() @ factors.items
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
        plays = np.zeros(len(playlists), np.int64)
        plays[playlists.users[playlists.items == track]] = 1
        asking = rest.lengths > 0
        found.append(auc(plays[asking], (queries @ (vector / max(float(np.linalg.norm(vector)), 1e-12)))[asking]))
    values = np.array([value for value in found if np.isfinite(value)])
    return {
        "auc": float(values.mean()),
        "auc se over tracks": float(values.std(ddof=1) / np.sqrt(len(values))),
        "tracks": float(len(values)),
    }


def _mean(folder: Path, seed: int) -> Mapping[str, float]:
    return _leave_one_out(folder, seed, lambda factors, known, _: factors.items[known].mean(0))


def _dealt(folder: Path, seed: int, shuffled: bool) -> tuple[Floats, ...]:
    mels = _mels(folder)
    if not shuffled:
        return mels
    order = np.random.default_rng(seed).permutation(len(mels))
    return tuple(mels[row] for row in order.tolist())


def _linear(folder: Path, shuffled: bool, seed: int) -> Mapping[str, float]:
    """Ridge on the mean and deviation of each band."""
    pooled = np.stack([np.concatenate([mel.mean(0), mel.std(0)]) for mel in _dealt(folder, seed, shuffled)])
    pooled = pooled.astype(np.float64)

    def predict(factors: Factors, known: npt.NDArray[np.int64], track: int) -> Any:
        x = (pooled - pooled[known].mean(0)) / np.maximum(pooled[known].std(0), 1e-9)
        y = factors.items[known].astype(np.float64)
        weights = np.linalg.solve(x[known] @ x[known].T + PENALTY * np.eye(len(known)), y - y.mean(0))
        return x[track] @ x[known].T @ weights + y.mean(0)

    return _leave_one_out(folder, seed, predict)


def _network(folder: Path, config: AudioConfig, shuffled: bool, seed: int) -> Mapping[str, float]:
    mels = _dealt(folder, seed, shuffled)

    def predict(factors: Factors, known: npt.NDArray[np.int64], track: int) -> Any:
        tower = fit_sound(factors, mels.__getitem__, SOUND, known, config, Run(seed=seed))
        return sound_vectors(tower, mels.__getitem__, SOUND, [track])[0, : FACTORS.dimension]

    return _leave_one_out(folder, seed, predict)
