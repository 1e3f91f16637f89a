"""What `evaluate` prints fits into 80 columns, and says what was measured."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from rich.console import Console
from support.assessments import assessment, interval

from feast_recsys.cli.evaluation_tables import show
from feast_recsys.evaluation.ablations import Ablation
from feast_recsys.evaluation.over_seeds import over_seeds
from feast_recsys.evaluation.ranker import judge_values


def printed(*arguments: object) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show(*arguments, console=console)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_further_trainings_fit_into_80_columns() -> None:
    found = assessment("EASE")
    worse = {name: {m: interval(v.mean - 0.02) for m, v in own.items()} for name, own in found.metrics.items()}
    quality = found.ranker.pooled
    forms = {
        "wide & deep": Ablation(quality, interval(0.3), None, 123_456),
        "wide": Ablation(quality, interval(0.2), interval(0.1), 17),
    }
    lines = printed(found, over_seeds({3: found, 4: replace(found, metrics=worse)}), forms).splitlines()
    assert "Over 2 trainings, seeds 3, 4, 95 % intervals" in "\n".join(lines)
    assert "Retrieve + Rank       0.2900     0.0141  0.2900" in "\n".join(lines)
    # A name, and all that is said of it, in one line.
    assert [line.split() for line in lines if line.startswith("wide ")] == [
        ["wide", "&", "deep", "0.3000", f"{quality.auc:.4f}", f"{quality.log_loss:.4f}", "123,456"],
        ["wide", "0.2000", "+0.1000", "(+0.0900", "to", "+0.1100)", f"{quality.auc:.4f}", f"{quality.log_loss:.4f}",
         "17"],
    ]  # fmt: skip
    assert f"AUC {quality.auc:.4f} ± 0.0000" in " ".join(lines)


def test_values_are_not_called_probabilities() -> None:
    found = assessment("EASE")
    values = judge_values(np.array([False, True]), np.array([0.2, 0.5]), np.array([0.0, 2.0]))
    ranker = replace(found.ranker, pooled=values, brought=interval(40.0), brought_retrieve=interval(30.0))
    told = " ".join(printed(replace(found, ranker=ranker)).split())
    assert "a candidate brought 1.0000 of the label, 0.6250 were expected" in told
    assert "bring a user 40.000 of the label together" in told
    assert "a candidate brought" not in " ".join(printed(found).split())
