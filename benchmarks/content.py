"""What users and items of the benchmark are like: made with NumPy from fixed seeds, the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.columns import Array

USER_VIEW, ITEM_VIEW = "user_profile", "item_profile"
BOTH_SIDES, USER_SIDE, ITEM_SIDE = "ranking", "ranking_user", "ranking_item"  # feature services
RETRIEVAL, RANKING = "shop_retrieval", "shop_ranking"  # models
HISTORY, HISTORY_LENGTH = "history", 20
FIRST_ITEM = 1_000_001
FIRST_USER = 1
BLOCK = 50_000  # rows of one seed, so that a larger catalogue begins with the smaller one
UNKNOWN_SHARE = 0.02


@dataclass(frozen=True)
class Feature:
    """A scalar feature. `keys` is the number of known ids of a category, 0 for a number."""

    name: str
    keys: int = 0

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """The known ids: spread out and not from 0, as ids are."""
        return tuple(range(1_000, 1_000 + 7 * self.keys, 7))


USER_FEATURES = (
    Feature("age_band", 10),
    Feature("gender", 3),
    Feature("country", 50),
    Feature("device", 6),
    Feature("segment", 200),
    Feature("days_active"),
    Feature("sessions"),
    Feature("spend"),
    Feature("click_rate"),
    Feature("basket_size"),
)
ITEM_FEATURES = (
    Feature("category", 1_000),
    Feature("brand", 5_000),
    Feature("seller", 2_000),
    Feature("language", 30),
    Feature("kind", 12),
    Feature("price"),
    Feature("rating"),
    Feature("age_days"),
    Feature("popularity"),
    Feature("discount"),
)


def user_ids(n: int) -> Array:
    """[n] int64, ascending."""
    return np.arange(FIRST_USER, FIRST_USER + n)


def item_ids(n: int) -> Array:
    """[n] int64, ascending."""
    return np.arange(FIRST_ITEM, FIRST_ITEM + n)


def user_columns(n: int) -> dict[str, Array]:
    """Values of the scalar user features by name, [n] each."""
    return _columns(USER_FEATURES, n, seed=1)


def item_columns(n: int) -> dict[str, Array]:
    """Values of the item features by name, [n] each. Those of fewer items are the first rows."""
    return _columns(ITEM_FEATURES, n, seed=2)


def histories(users: int, items: int) -> list[list[int]]:
    """What each user had last: up to HISTORY_LENGTH ids of the first `items` items."""
    random = np.random.default_rng(3)
    lengths = random.integers(1, HISTORY_LENGTH + 1, users)
    return [(random.integers(0, items, length) + FIRST_ITEM).tolist() for length in lengths]


def pool(items: int, size: int) -> Array:
    """Ids of the items that candidates are drawn from, ascending, at most `size` of the first `items`."""
    random = np.random.default_rng(4)
    return np.sort(random.choice(item_ids(items), min(size, items), replace=False))


def rows_of(columns: Mapping[str, Array], ids: Array) -> dict[str, Array]:
    """The rows of some items."""
    return {name: values[ids - FIRST_ITEM] for name, values in columns.items()}


def _columns(features: tuple[Feature, ...], n: int, seed: int) -> dict[str, Array]:
    blocks = [_block(features, np.random.default_rng([seed, block])) for block in range(-(-n // BLOCK))]
    return {f.name: np.concatenate([b[f.name] for b in blocks])[:n] for f in features}


def _block(features: tuple[Feature, ...], random: np.random.Generator) -> dict[str, Array]:
    columns: dict[str, Array] = {}
    for feature in features:
        if feature.keys:
            # Few keys are frequent, most are rare; some are not in the vocabulary at all.
            rows = (feature.keys * random.random(BLOCK) ** 2).astype(np.int64)
            known = np.array(feature.vocabulary, np.int64)[rows]
            columns[feature.name] = np.where(random.random(BLOCK) < UNKNOWN_SHARE, 3, known)
        else:
            columns[feature.name] = random.normal(size=BLOCK).astype(np.float32)
    return columns
