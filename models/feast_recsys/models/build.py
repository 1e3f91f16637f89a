"""Modules from a signature and the plain JSON that training keeps beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from feast_recsys.bundle.signature import Role, Signature, Stage
from feast_recsys.models.family_names import CONTENT_FAMILIES, HISTORY_FAMILIES
from feast_recsys.models.two_tower import TwoTowerConfig, build_two_tower
from feast_recsys.models.wide_deep import WideDeep, WideDeepConfig


def build_modules(signature: Signature, sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[Role, nn.Module]:
    """Untrained modules of a checkpoint.

    Args:
        signature: Its inputs.
        sizes: Rows by vocabulary file.
        config: As training wrote it.

    Raises:
        KeyError, TypeError: the config is not of this version.
    """
    if config["family"] in HISTORY_FAMILIES:
        # These modules know of checkpoints, which know of this one.
        from feast_recsys.models.history_families import build_history_modules, history_family

        return build_history_modules(history_family(config["family"]), signature, sizes, config)
    if config["family"] in CONTENT_FAMILIES:
        from feast_recsys.models.content_families import build_content_modules

        return build_content_modules(signature, sizes, config)
    parameters = dict(config["hyperparameters"])
    if signature.stage is Stage.RETRIEVAL:
        query, item = signature.graphs[Role.QUERY_ENCODER].inputs, signature.graphs[Role.ITEM_ENCODER].inputs
        hyper = TwoTowerConfig(**parameters)
        return build_two_tower(query, item, sizes, config["knots"], config["history"], hyper)
    for name in ("hidden", "pools"):
        parameters[name] = tuple(parameters[name])
    ranker = WideDeep(
        signature.graphs[Role.RANKER].inputs, sizes, config["knots"], config["item_id"], config["history"],
        config["crosses"], (config["score"][0], config["score"][1]), WideDeepConfig(**parameters),
    )  # fmt: skip
    return {Role.RANKER: ranker}
