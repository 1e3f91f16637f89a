"""Parts of the test on which a mean hides most: users by how much is known of them, items by how popular they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feast_recsys.evaluation.relevance import Hits, Mask, Relevant, Rows, Values

USER_BOUNDS = (5, 20, 50)
COLD_ITEM = 5  # likes in training below which an item counts as cold


@dataclass(frozen=True)
class Slice:
    """A part of the users, or of their relevant items.

    Attributes:
        name: What is in it.
        members: [U] bool for a part of the users; [T] bool, for each entry of the relevant items, for a part of these.
    """

    name: str
    members: Mask


def user_slices(likes: Rows, bounds: tuple[int, ...] = USER_BOUNDS) -> list[Slice]:
    """Users by their likes before the question. Every user is in one slice; empty slices are left out.

    Args:
        likes: [U] int64.
        bounds: Where slices begin, ascending, above 0. The first slice, of the cold users, is below the first of them.
    """
    edges = [0, *bounds]
    names = [f"{low} to {high - 1} likes" for low, high in zip(edges, bounds, strict=False)]
    names = [*names, f"{edges[-1]} likes or more"]
    part = np.searchsorted(np.asarray(bounds), likes, side="right")
    return [Slice(name, part == n) for n, name in enumerate(names) if (part == n).any()]


def popularity_tiers(likes: Rows, *, cold: int = COLD_ITEM) -> Rows:
    """The tier of each item: 0 head, 1 middle, 2 tail, 3 cold.

    Cold are items with fewer than `cold` likes in training. The others are sorted by likes: head are the most liked
    ones that have the first third of all their likes together, middle those that have the second, tail the rest.

    Args:
        likes: [n] int64, likes of each item in training.
        cold: See above.

    Returns:
        [n] int64.
    """
    warm = np.flatnonzero(likes >= cold)
    order = warm[np.argsort(-likes[warm], kind="stable")]
    before = np.cumsum(likes[order]) - likes[order]
    tiers = np.full(len(likes), 3, np.int64)
    tiers[order] = np.minimum(3 * before // max(int(likes[order].sum()), 1), 2)
    return tiers


def item_slices(relevant: Relevant, likes: Rows, *, cold: int = COLD_ITEM) -> list[Slice]:
    """The relevant items by tier of popularity. Every one is in one slice; empty slices are left out."""
    tier = popularity_tiers(likes, cold=cold)[relevant.items]
    names = ("head: most liked", "middle", "tail: least liked", f"cold: under {cold} likes")
    return [Slice(name, tier == n) for n, name in enumerate(names) if (tier == n).any()]


def recall_within(ranked: Rows, relevant: Relevant, part: Slice, k: int) -> Values:
    """Recall@k counting the relevant items of a slice only: [U] float64, NaN for users who have none of it."""
    return Hits.of(ranked, relevant.only(part.members), k).recall(k)
