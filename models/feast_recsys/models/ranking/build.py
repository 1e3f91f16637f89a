"""An untrained ranker, from a signature and the plain JSON that training keeps beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feast_recsys.bundle.signature import Role, Signature
from feast_recsys.models.ranking.wide_deep import ScoreScale, WideDeep, WideDeepConfig


def build_ranker(signature: Signature, sizes: Mapping[str, int], config: Mapping[str, Any]) -> WideDeep:
    """An untrained ranker.

    Args:
        signature: Its inputs.
        sizes: Rows by vocabulary file.
        config: As training wrote it.

    Raises:
        KeyError, TypeError: the config is not of this version.
    """
    parameters = dict(config["hyperparameters"])
    for name in ("hidden", "pools"):
        parameters[name] = tuple(parameters[name])
    return WideDeep(
        signature.graphs[Role.RANKER].inputs, sizes, config["knots"], config["item_id"], config["history"],
        config["crosses"], (config["score"][0], config["score"][1]), WideDeepConfig(**parameters),
        [ScoreScale(*scale) for scale in config.get("scales", ())],
    )  # fmt: skip
