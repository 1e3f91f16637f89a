"""Gowalla, the whole catalogue: the two-tower of histories alone (YoutubeDNN) beside its ablation and the simple rows.

Protocol: the study `gowalla_choice` measures configurations, numbers of epochs among them, on the validation pairs, as
models of the training pairs. This one takes the best of them, trains it on both for as many epochs, and ranks the test
once a seed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from benchmarks.quality.data import Split, gowalla
from benchmarks.quality.study import MINUTES, RESULTS, Options, Row, Study, read

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.full_ranking import means, measure, rank_users
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.collaborative.popularity import PopularityConfig, fit_popularity
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.training.devices import best_device
from feast_recsys.models.training.loop import Run
from feast_recsys.models.training.seeds import seeded
from feast_recsys.models.two_tower.examples import Leftouts, TwoTowerScorer
from feast_recsys.models.two_tower.towers import TwoTowerConfig, build_ids_two_tower
from feast_recsys.models.two_tower.train import fit_source

BASE = TwoTowerConfig(
    hidden=0, dropout=0.0, history_dropout=0.0, id_dropout=0.0, batch=6144, targets=10, in_batch=False, uniform=512,
    popular=512, correction="negatives", temperature=0.1, learning_rate=0.01, decay=0.92, epochs=30, patience=0,
)  # fmt: skip
BIASED = replace(BASE, bias=True)
MORE = replace(BIASED, uniform=2048, popular=2048)
VARIANTS = {
    "no bias; temperature .07": replace(BASE, temperature=0.07),
    "no bias": BASE,
    "bias": BIASED,
    "bias; 1024 + 1024 negatives": replace(BIASED, uniform=1024, popular=1024),
    "bias; 2048 + 2048 negatives": MORE,
    "bias; 128 wide": replace(BIASED, dimension=128),
}
CHOICE = "gowalla_choice"
CUTS = (20, 50)
METRICS = ("recall@20", "recall@50", "ndcg@20", "hit_rate@20")
PUBLISHED = {
    "BARS: MF-BPR": (0.1627, 0.2533, 0.1378, 0.5544),
    "BARS: YoutubeDNN": (0.1754, 0.2711, 0.1473, 0.5628),
    "BARS: EASE": (0.1765, 0.2701, 0.1467, 0.5727),
    "BARS: LightGCN": (0.1820, 0.2821, 0.1547, 0.5924),
    "BARS: SimpleX": (0.1872, 0.2874, 0.1557, 0.5927),
}


@dataclass(frozen=True)
class Data:
    """The split, read when a row needs it."""

    folder: Path
    small: bool

    @cached_property
    def split(self) -> Split:
        split = gowalla(self.folder)
        if not self.small:
            return split
        users = np.arange(2000)
        test = Histories(split.test.offsets, split.test.items, split.train.catalogue).take(users)
        train, valid, both = (part.take(users) for part in (split.train, split.valid, split.both))
        return Split(train, valid, both, Relevant(test.offsets, test.items), split.checksums)


def train(histories: Histories, config: TwoTowerConfig, seed: int) -> tuple[TwoTowerScorer, float]:
    """The two-tower after all epochs of the config, and the minutes that its training took."""
    began = time.monotonic()
    with seeded(seed):
        encoders = build_ids_two_tower(histories.catalogue, config)
    source = Leftouts(histories, config.batch, config.targets, config.history_dropout)
    fitted = fit_source(encoders, source, config, Run(seed=seed, device=best_device()))
    return TwoTowerScorer(fitted.encoders), (time.monotonic() - began) / 60


def two_tower(data: Data, config: TwoTowerConfig) -> Row:
    def row(seed: int) -> Mapping[str, float]:
        split, used = data.split, replace(config, epochs=2) if data.small else config
        scorer, minutes = train(split.both, used, seed)
        ranked = rank_users(scorer, split.both, max(CUTS))
        return {**means(measure(ranked, split.test, CUTS)), MINUTES: minutes}

    return row


def popularity(data: Data) -> Row:
    def row(seed: int) -> Mapping[str, float]:
        split = data.split
        model = fit_popularity(split.both, PopularityConfig(), Run(seed=seed))
        return means(measure(rank_users(model, split.both, max(CUTS)), split.test, CUTS))

    return row


def chosen(options: Options, folder: Path = RESULTS) -> str:
    """The variant with the best recall@20 on validation at seed 0.

    Raises:
        InvalidArgument: `gowalla_choice` has not been run.
    """
    rows = read(folder / f"{CHOICE}.json")["rows"]
    found = {name: rows[name]["0"]["metrics"][METRICS[0]] for name in VARIANTS if "0" in rows.get(name, {})}
    if options.small:
        return next(iter(VARIANTS))
    if not found:
        raise InvalidArgument(f"nothing is chosen yet; run python -m benchmarks.quality {CHOICE} first", field="study")
    return max(found, key=found.__getitem__)


def study(options: Options) -> Study:
    data, best = Data(options.data / "gowalla", options.small), chosen(options)
    config = VARIANTS[best]
    return Study(
        "gowalla",
        "Gowalla, whole catalogue of 40,981 without seen items, Recall = hits / |T|; chosen on validation pairs",
        {
            "popularity": popularity(data),
            "two-tower without logQ": two_tower(data, replace(config, correction="none")),
            "two-tower (no bias; 512 + 512 negatives)": two_tower(data, BASE),
            "two-tower (64 wide; 2048 + 2048 negatives)": two_tower(data, MORE),
            "two-tower": two_tower(data, config),
        },
        METRICS,
        once=frozenset({"popularity"}),
        facts={"chosen": best, "config": vars(config), "chosen on": f"validation pairs; see {CHOICE}"},
        published={name: dict(zip(METRICS, values, strict=True)) for name, values in PUBLISHED.items()},
        notes=("The published rows had no validation pairs: at least YoutubeDNN, LightGCN and SimpleX chose their "
               "epoch on the test.",
               "The published rows are 64 wide, as all of ours that don't say otherwise; EASE has no width.",),
    )  # fmt: skip
