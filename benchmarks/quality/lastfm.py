"""New artists by their sound alone: Last.fm plays and Spotify's audio features, artists held out in five folds.

Factors come from the plays of the other folds. For each fold everything is chosen on the next one, with factors of the
remaining three; the held-out artists are ranked for each user who has one of them. AUC is per user, Recall@20 over
min(20, |T|). Only the features of the sound are used, never Spotify's popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.quality.data import Lastfm, lastfm
from benchmarks.quality.study import Options, Study
from scipy.sparse.linalg import svds

from feast_recsys.evaluation.metrics import mean, recall_at, top_k
from feast_recsys.evaluation.predictions import auc_per_user
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.content.factors import FactorConfig, Factors, usage_factors
from feast_recsys.models.content.training import (
    DescriptorConfig,
    Usage,
    fit_numbers,
    number_vectors,
)
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.training.loop import Run

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

FOLDS = 5
FACTORS = (FactorConfig(dimension=16), FactorConfig(dimension=40))
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
NEIGHBOURS = (10, 30, 100)
NETWORKS = (
    DescriptorConfig(hidden=(256,), dropout=0.3, epochs=40, popularity=0.1),
    DescriptorConfig(hidden=(512,), dropout=0.5, epochs=80, popularity=0.1),
    DescriptorConfig(hidden=(256,), dropout=0.3, epochs=40, popularity=0.1, loss="wpe", learning_rate=3e-3),
)
WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Part:
    """Artists to learn from, artists to rank, and what goes with them.

    Attributes:
        known, asked: Positions.
        queries: [U, d] unit means of the users' known artists, as the exported query encoder gives them.
        factors: Of the plays of the known artists.
        plays: Of the known artists.
        plain, powers: [n, k] features, and with their squares and products; standardised on the known artists.
    """

    known: Ints
    asked: Ints
    queries: Floats
    factors: Factors
    plays: Histories
    plain: Floats
    powers: Floats


Predict = Callable[[Part], Floats]  # [asked, d] or [asked, d + 1] with a bias


def study(options: Options) -> Study:
    """Rows of the table."""
    folder = options.data / "lastfm-audio-features"
    rows = {
        "random": partial(_chance, folder),
        "shuffled content": partial(_shuffled, folder),
        "mean factor": partial(_simple, folder, "mean"),
        "ridge, SVD factors": partial(_svd, folder),
        "content-kNN": partial(_simple, folder, "knn"),
        "ridge": partial(_simple, folder, "ridge"),
        "ridge with popularity": partial(_simple, folder, "ridge with popularity"),
        "MLP": partial(_network, folder),
        "oracle popularity": partial(_popular, folder),
        "oracle factors": partial(_oracle, folder),
    }
    return Study(
        name="lastfm",
        title="Last.fm plays by Spotify's audio features, artists held out in 5 folds, Recall over min(20, |T|)",
        rows=rows,
        metrics=("auc", "recall@20", "auc sd over folds", "recall@20 sd over folds"),
        once=frozenset(rows) - {"random", "shuffled content", "MLP", "oracle factors"},
        facts={
            "checksums": dict(_data(folder).checksums),
            "searched": {
                "factors": [asdict(c) for c in FACTORS], "ridge penalty": PENALTIES, "neighbours": NEIGHBOURS,
                "MLP": [asdict(c) for c in NETWORKS], "weight of popularity": WEIGHTS,
            },
            "chosen": "in the metrics of the rows: chosen values, or numbers in the lists searched, by fold",
            "chosen by": "AUC + Recall@20 on the next fold, factors of the other three; seed 0",
        },
        notes=(
            "The oracles see the plays of the held-out artists.",
            "Ridge with SVD factors is the published recipe: penalty 100, 16 factors of the degree-normalised matrix.",
        ),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _data(folder: Path) -> Lastfm:
    return lastfm(folder)


def _plays(data: Lastfm, artists: Ints) -> Histories:
    """Whether users played these artists; the others look as if nobody had."""
    kept = np.isin(data.plays.items, artists)
    return Histories.from_pairs(
        data.plays.users[kept], data.plays.items[kept], data.plays.catalogue, size=len(data.plays)
    )


@lru_cache(maxsize=32)
def _part(folder: Path, fold: int, config: FactorConfig, inner: bool) -> Part:
    data = _data(folder)
    known, asked = data.held_out(fold)
    if inner:
        following = (fold + 1) % FOLDS
        known, asked = known[data.folds[known] != following], np.flatnonzero(data.folds == following)
    plays = _plays(data, known)
    factors = usage_factors(plays, replace(config, threshold=1), Run())
    plain = _standard(data.features, known)
    i, j = np.triu_indices(plain.shape[1])
    powers = _standard(np.concatenate([plain, plain[:, i] * plain[:, j]], 1), known)
    return Part(known, asked, _unit(plays.matrix() @ factors.items), factors, plays, plain, powers)


def _standard(x: Floats, rows: Ints) -> Floats:
    spread = x[rows].std(0)
    return np.asarray((x - x[rows].mean(0)) / np.where(spread > 0, spread, 1.0))


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _measure(folder: Path, asked: Ints, scores: Floats) -> dict[str, float]:
    """Metrics of [U, asked] scores."""
    truth = _data(folder).plays.matrix().toarray()[:, asked] > 0
    users = np.flatnonzero(truth.any(1))
    truth, scores = truth[users], scores[users]
    relevant = Relevant.from_lists([np.flatnonzero(row) for row in truth])
    recall = mean(recall_at(top_k(scores, 20), relevant, 20, denominator="min"))
    groups = np.repeat(np.arange(len(users)), len(asked))
    return {"auc": mean(auc_per_user(truth.reshape(-1), scores.reshape(-1), groups)), "recall@20": recall}


def _over_folds(
    measure: Callable[[int], Mapping[str, float]], choices: Callable[[int], dict[str, float]] = lambda _: {}
) -> dict[str, float]:
    found = [measure(fold) for fold in range(FOLDS)]
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    spread = {f"{name} sd over folds": float(np.std([one[name] for one in found], ddof=1)) for name in found[0]}
    chosen = {name: value for fold in range(FOLDS) for name, value in choices(fold).items()}
    return means | spread | chosen


def _score(part: Part, vectors: Floats) -> Floats:
    d = part.queries.shape[1]
    bias = vectors[:, d] if vectors.shape[1] > d else np.zeros(len(vectors))
    return part.queries @ vectors[:, :d].T + bias


def _ridge(x: Floats, y: Floats, penalty: float, asked: Floats) -> Floats:
    centre = x.mean(0)
    gram = (x - centre).T @ (x - centre) + penalty * np.eye(x.shape[1])
    return np.asarray((asked - centre) @ np.linalg.solve(gram, (x - centre).T @ (y - y.mean(0))) + y.mean(0))


def _by_ridge(part: Part, penalty: float) -> Floats:
    y = part.factors.items[part.known].astype(np.float64)
    return _unit(_ridge(part.powers[part.known], y, penalty, part.powers[part.asked]))


def _with_popularity(part: Part, penalty: float) -> Floats:
    y = part.factors.popularity[part.known, None].astype(np.float64)
    predicted = _ridge(part.powers[part.known], y, penalty, part.powers[part.asked])
    return np.concatenate([_by_ridge(part, penalty), predicted], 1)


def _by_neighbours(part: Part, k: int) -> Floats:
    near = top_k(_unit(part.plain[part.asked]) @ _unit(part.plain[part.known]).T, k)
    return _unit(part.factors.items[part.known][near].mean(1))


def _by_network(part: Part, config: DescriptorConfig, seed: int, content: Floats | None = None) -> Floats:
    x = (part.plain if content is None else content).astype(np.float32)
    tower = fit_numbers(
        part.factors, x, part.known, config, Run(seed=seed), usage=Usage(part.factors.users, part.plays)
    )
    return number_vectors(tower, x[part.asked])


def _weighed(vectors: Floats, weight: float) -> Floats:
    return np.concatenate([vectors[:, :-1], vectors[:, -1:] * weight], 1)


def _quality(folder: Path, part: Part, vectors: Floats) -> float:
    return sum(_measure(folder, part.asked, _score(part, vectors)).values())


@lru_cache(maxsize=FOLDS)
def _factors(folder: Path, fold: int) -> tuple[FactorConfig, float]:
    """The factors, and the penalty of the ridge, that are best on the inner split."""
    tried = [
        (_quality(folder, part, _by_ridge(part, penalty)), n, penalty)
        for n, config in enumerate(FACTORS)
        for part in [_part(folder, fold, config, True)]
        for penalty in PENALTIES
    ]
    _, n, penalty = max(tried)
    return FACTORS[n], penalty


@lru_cache(maxsize=FOLDS)
def _neighbours(folder: Path, fold: int) -> int:
    part = _part(folder, fold, _factors(folder, fold)[0], True)
    return max(NEIGHBOURS, key=lambda k: _quality(folder, part, _by_neighbours(part, k)))


@lru_cache(maxsize=FOLDS)
def _ridge_weight(folder: Path, fold: int) -> float:
    config, penalty = _factors(folder, fold)
    part = _part(folder, fold, config, True)
    vectors = _with_popularity(part, penalty)
    return max(WEIGHTS, key=lambda weight: _quality(folder, part, _weighed(vectors, weight)))


@lru_cache(maxsize=FOLDS)
def _chosen(folder: Path, fold: int) -> tuple[DescriptorConfig, float]:
    """The network and the weight of popularity that are best on the inner split."""
    part = _part(folder, fold, _factors(folder, fold)[0], True)
    tried = []
    for n, config in enumerate(NETWORKS):
        vectors = _by_network(part, config, 0)
        tried += [(_quality(folder, part, _weighed(vectors, weight)), n, weight) for weight in WEIGHTS]
    _, n, weight = max(tried)
    return NETWORKS[n], weight


def _choices(folder: Path, fold: int, kind: str) -> dict[str, float]:
    """What was chosen for a row, as numbers that go into its results."""
    config, penalty = _factors(folder, fold)
    chosen = {"factors": float(FACTORS.index(config))}
    if kind == "MLP":
        network, weight = _chosen(folder, fold)
        chosen |= {"network": float(NETWORKS.index(network)), "weight": weight}
    elif kind == "knn":
        chosen |= {"neighbours": float(_neighbours(folder, fold))}
    elif kind != "mean":
        chosen |= {"penalty": penalty}
        chosen |= {"weight": _ridge_weight(folder, fold)} if kind == "ridge with popularity" else {}
    return {f"{name}, fold {fold}": value for name, value in chosen.items()}


def _outer(folder: Path, fold: int) -> Part:
    return _part(folder, fold, _factors(folder, fold)[0], False)


def _chance(folder: Path, seed: int) -> dict[str, float]:
    def measure(fold: int) -> Mapping[str, float]:
        asked = _data(folder).held_out(fold)[1]
        return _measure(
            folder, asked, np.random.default_rng([seed, fold]).random((len(_data(folder).plays), len(asked)))
        )

    return _over_folds(measure)


def _shuffled(folder: Path, seed: int) -> dict[str, float]:
    """The MLP with the content of all artists dealt out anew."""

    def measure(fold: int) -> Mapping[str, float]:
        part, (config, weight) = _outer(folder, fold), _chosen(folder, fold)
        dealt = part.plain[np.random.default_rng([seed, fold]).permutation(len(part.plain))]
        return _measure(folder, part.asked, _score(part, _weighed(_by_network(part, config, seed, dealt), weight)))

    return _over_folds(measure)


def _simple(folder: Path, kind: str, seed: int) -> dict[str, float]:
    def measure(fold: int) -> Mapping[str, float]:
        part = _outer(folder, fold)
        if kind == "ridge":
            vectors = _by_ridge(part, _factors(folder, fold)[1])
        elif kind == "ridge with popularity":
            vectors = _weighed(_with_popularity(part, _factors(folder, fold)[1]), _ridge_weight(folder, fold))
        elif kind == "knn":
            vectors = _by_neighbours(part, _neighbours(folder, fold))
        else:
            vectors = np.repeat(_unit(part.factors.items[part.known].mean(0, keepdims=True)), len(part.asked), 0)
        return _measure(folder, part.asked, _score(part, vectors))

    return _over_folds(measure, lambda fold: _choices(folder, fold, kind))


def _svd(folder: Path, seed: int) -> dict[str, float]:
    def measure(fold: int) -> Mapping[str, float]:
        part = _outer(folder, fold)
        matrix = _plays(_data(folder), part.known).matrix().toarray()[:, part.known].astype(np.float64)
        degrees = [np.maximum(matrix.sum(axis), 1.0) ** -0.5 for axis in (1, 0)]
        matrix = degrees[0][:, None] * matrix * degrees[1]
        users, strengths, items = svds(matrix, k=16, v0=np.ones(min(matrix.shape)))
        found = _ridge(part.powers[part.known], items.T * strengths, 100.0, part.powers[part.asked])
        return _measure(folder, part.asked, users @ found.T)

    return _over_folds(measure)


def _network(folder: Path, seed: int) -> dict[str, float]:
    def measure(fold: int) -> Mapping[str, float]:
        part, (config, weight) = _outer(folder, fold), _chosen(folder, fold)
        return _measure(folder, part.asked, _score(part, _weighed(_by_network(part, config, seed), weight)))

    return _over_folds(measure, lambda fold: _choices(folder, fold, "MLP"))


def _popular(folder: Path, seed: int) -> dict[str, float]:
    def measure(fold: int) -> Mapping[str, float]:
        plays, asked = _data(folder).plays, _data(folder).held_out(fold)[1]
        counts = np.bincount(plays.items, minlength=plays.catalogue)[asked]
        return _measure(folder, asked, np.tile(counts.astype(np.float64), (len(plays), 1)))

    return _over_folds(measure)


def _oracle(folder: Path, seed: int) -> dict[str, float]:
    """True factors of the held-out artists, learned from all plays, asked by the users' other artists."""

    def measure(fold: int) -> Mapping[str, float]:
        data, (config, _) = _data(folder), _factors(folder, fold)
        known, asked = data.held_out(fold)
        everything = replace(data.plays, ratings=None)
        factors = usage_factors(everything, replace(config, threshold=1), Run(seed=seed))
        queries = _unit(_plays(data, known).matrix() @ factors.items)
        return _measure(folder, asked, queries @ factors.items[asked].T)

    return _over_folds(measure)
