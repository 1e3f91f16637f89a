"""The families of retrieval models but the two-tower: where they are, and one of them by its name."""

from __future__ import annotations

import importlib

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.retrieval.history_models import HistoryFamily

HISTORY_FAMILIES = {
    "mult_dae": "autoencoders.families:MULT_DAE",
    "mult_vae": "autoencoders.families:MULT_VAE",
    "deep_autoencoder": "autoencoders.families:DEEP_AUTOENCODER",
    "als": "collaborative.families:ALS",
    "bpr": "collaborative.families:BPR",
    "ease": "collaborative.families:EASE",
    "item_knn": "collaborative.families:ITEM_KNN",
    "popularity": "collaborative.families:POPULARITY",
}
"""Module of `feast_recsys.models` and name of the family in it, by the name that the settings give."""

CONTENT_FAMILIES = frozenset({"content", "audio"})
"""Those that place new items by their content; see `content.families`."""


def history_family(name: str) -> HistoryFamily:
    """The family of that name.

    Raises:
        InvalidSettings: there is none such.
    """
    if name not in HISTORY_FAMILIES:
        raise InvalidSettings(f"no family {name!r}; there are: {', '.join(sorted(HISTORY_FAMILIES))}", field="family")
    # Imported when asked for: the libraries behind some of them take long to load.
    module, attribute = HISTORY_FAMILIES[name].split(":")
    family: HistoryFamily = getattr(importlib.import_module(f"feast_recsys.models.{module}"), attribute)
    return family
