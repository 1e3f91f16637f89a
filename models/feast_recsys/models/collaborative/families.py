"""The baselines as families that the settings can name: served through the same door as the deep models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feast_recsys.models.collaborative.als import AlsConfig, build_als, fit_als
from feast_recsys.models.collaborative.bpr import BprConfig, build_bpr, fit_bpr
from feast_recsys.models.collaborative.ease import EaseConfig, build_ease, fit_ease
from feast_recsys.models.collaborative.item_knn import ItemKnnConfig, build_item_knn, fit_item_knn
from feast_recsys.models.collaborative.popularity import PopularityConfig, build_popularity, fit_popularity
from feast_recsys.models.collaborative.shared import Model
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.retrieval.history_models import HistoryFamily, HistoryFit, Validate
from feast_recsys.models.training.loop import Run


def _family(
    config: type[Any], build: Callable[[int, Any], Encoders], fit: Callable[[Histories, Any, Run], Model], bias: int
) -> HistoryFamily:
    def fitted(
        histories: Histories, chosen: Any, run: Run, validate: Validate | None, epochs: int | None
    ) -> HistoryFit:
        model = fit(histories, chosen, run)
        return HistoryFit(model.encoders(), model.config, facts=model.facts)

    return HistoryFamily(config, build, fitted, bias)


POPULARITY = _family(PopularityConfig, build_popularity, fit_popularity, 1)
ITEM_KNN = _family(ItemKnnConfig, build_item_knn, fit_item_knn, 1)
EASE = _family(EaseConfig, build_ease, fit_ease, 2)
ALS = _family(AlsConfig, build_als, fit_als, 2)
BPR = _family(BprConfig, build_bpr, fit_bpr, 2)
