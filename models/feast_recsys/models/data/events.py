"""Interactions by user and time, and their split into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.interactions import Interactions

Ints = npt.NDArray[np.int64]


class Part(IntEnum):
    """What an interaction is used for."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class Events:
    """n interactions, sorted by user, time and item. Users and items are numbers: positions in the id arrays.

    Attributes:
        user_ids: [U] ids, ascending.
        item_ids: [I] ids, ascending: every item with an interaction. This is the catalogue of training and evaluation.
        users: [n] positions in `user_ids`.
        items: [n] positions in `item_ids`.
        times: [n] unix seconds.
        positive: [n] bool, whether it is a like.
        parts: [n] uint8, Part.
        starts: [U + 1] first event of each user.
        labels: [n] float32, as the interactions have them; 1 where the settings name no label column.
    """

    user_ids: Array
    item_ids: Array
    users: Ints
    items: Ints
    times: Ints
    positive: npt.NDArray[np.bool_]
    parts: npt.NDArray[np.uint8]
    starts: Ints
    labels: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.times)

    def seen(self, user: int, time: int) -> Ints:
        """The items that a user had met before `time`."""
        start, end = self.starts[user], self.starts[user + 1]
        return self.items[start : start + np.searchsorted(self.times[start:end], time)]


def split_events(interactions: Interactions, last: int = 10) -> Events:
    """Sorts interactions by user and splits each user's in time.

    A user's last k events are the test, the k before them the validation, the rest is for training; k is `last`
    or, for users with few events, a quarter of them. Events at one moment are never torn apart: those that share
    the moment of a part's first event belong to that part, so that features as of just before it hold none of them.

    Raises:
        InvalidSettings: there are no interactions, or no likes to train on.
    """
    user_ids, users = np.unique(interactions.users, return_inverse=True)
    item_ids, items = np.unique(interactions.items, return_inverse=True)
    order = np.argsort(users, kind="stable")  # the interactions come sorted by time and item
    users, items, times = users[order], items[order], interactions.timestamps[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(user_ids)))]).astype(np.int64)
    parts = np.full(len(users), Part.TRAIN, np.uint8)
    for start, end in pairwise(starts.tolist()):
        k = min(last, (end - start) // 4)
        for part in (Part.TEST, Part.VALIDATION):
            if k == 0 or end - k <= start:
                break
            begin = start + np.searchsorted(times[start:end], times[end - k])
            parts[begin:end] = part
            end = begin
    positive = interactions.positive[order]
    if not (positive & (parts == Part.TRAIN)).any():
        raise InvalidSettings(
            "there are no likes to train on; check `label` and `positive_from`, or bring more interactions",
            field="recsys.interactions",
        )
    return Events(user_ids, item_ids, users, items, times, positive, parts, starts, interactions.labels[order])
