"""Untrained encoders of a two-tower, from a signature and the plain JSON that training keeps beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from feast_recsys.bundle.signature import Role, Signature
from feast_recsys.models.two_tower.towers import TwoTowerConfig, build_two_tower


def build_encoders(signature: Signature, sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[Role, nn.Module]:
    """Untrained encoders.

    Args:
        signature: Its inputs.
        sizes: Rows by vocabulary file.
        config: As training wrote it.

    Raises:
        KeyError, TypeError: the config is not of this version.
    """
    query, item = signature.graphs[Role.QUERY_ENCODER].inputs, signature.graphs[Role.ITEM_ENCODER].inputs
    hyper = TwoTowerConfig(**config["hyperparameters"])
    return build_two_tower(query, item, sizes, config["knots"], config["history"], hyper)
