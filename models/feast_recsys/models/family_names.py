"""The families of retrieval models but the two-tower: where they are."""

HISTORY_FAMILIES = {
    "mult_dae": "autoencoder_families:MULT_DAE",
    "mult_vae": "autoencoder_families:MULT_VAE",
    "deep_autoencoder": "autoencoder_families:DEEP_AUTOENCODER",
    "als": "collaborative_families:ALS",
    "bpr": "collaborative_families:BPR",
    "ease": "collaborative_families:EASE",
    "item_knn": "collaborative_families:ITEM_KNN",
    "popularity": "collaborative_families:POPULARITY",
}
"""Module of `feast_recsys.models` and name of the family in it, by the name that the settings give."""

CONTENT_FAMILIES = frozenset({"content", "audio"})
"""Those that place new items by their content; see `content_families`."""
