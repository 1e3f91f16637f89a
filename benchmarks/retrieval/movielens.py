"""Vectors of a real model: factors of MovieLens' five-star ratings, by alternating least squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks.quality.data import five_star

from feast_recsys.models.collaborative.als import AlsConfig, fit_als
from feast_recsys.models.training.loop import Run

# As chosen on validation in docs/quality.md.
_CONFIG = AlsConfig(factors=64, regularization=100.0, alpha=10.0)


def write(data: Path, path: Path, *, say: Callable[[str], None] = print) -> None:
    """Fits the model and writes `items` and `queries`, a user's factors each.

    Args:
        data: The folder that holds ml1m-five-star/.
        path: The .npz file.
        say: Told what was written.

    Raises:
        InvalidArgument: there is no such folder.
        CorruptArtifact: the data is missing; names it.
    """
    split = five_star(data / "ml1m-five-star", 0)
    model = fit_als(split.both, _CONFIG, Run(seed=0))
    users = np.random.default_rng(0).permutation(len(model.users))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, items=model.items, queries=model.users[users])
    say(f"{path}: {len(model.items):,} items, {len(users):,} users, {model.items.shape[1]} numbers each")
