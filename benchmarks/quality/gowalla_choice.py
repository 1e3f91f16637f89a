"""How the two-tower for Gowalla was chosen: models of the training pairs, measured on the validation pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.quality.gowalla import CHOICE, CUTS, METRICS, MORE, VARIANTS, Data, train
from benchmarks.quality.study import MINUTES, Options, Row, Study

from feast_recsys.evaluation.full_ranking import means, measure, rank_users
from feast_recsys.models.two_tower.towers import TwoTowerConfig


def on_validation(data: Data, config: TwoTowerConfig) -> Row:
    def row(seed: int) -> Mapping[str, float]:
        split, used = data.split, replace(config, epochs=2) if data.small else config
        scorer, minutes = train(split.train, used, seed)
        ranked = rank_users(scorer, split.train, max(CUTS))
        return {**means(measure(ranked, split.wanted, CUTS)), MINUTES: minutes}

    return row


def study(options: Options) -> Study:
    data = Data(options.data / "gowalla", options.small)
    rows = {name: on_validation(data, config) for name, config in VARIANTS.items()}
    rows["bias; 2048 + 2048 negatives; 128 wide"] = on_validation(data, replace(MORE, dimension=128))
    return Study(CHOICE, "Gowalla, models of the training pairs on the validation pairs", rows, METRICS)
