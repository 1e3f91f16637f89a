"""Numbers and sizes that a request may ask for."""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.features.serving_settings import Serving

Setting = Literal["max_top_k", "max_candidates", "max_exclusions", "max_batch"]


class Limits:
    """The settings' limits; what is beyond one is refused by the setting that raises it.

    Args:
        serving: The section that names them.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def count(self, value: int, *settings: Setting, default: int, field: str) -> int:
        """A number of items: what was asked for, or the default for 0.

        Raises:
            InvalidArgument: it is negative, or above the smallest of the limits.
        """
        if value < 0:
            raise InvalidArgument(f"{field} is {value}; give a positive number, or 0 for the default", field=field)
        limit, setting = min((self._limit(setting), setting) for setting in settings)
        if value > limit:
            raise InvalidArgument(f"{field} is {value}; {_told(limit, setting)}", field=field)
        return value or default

    def check_size(self, values: Sized, setting: Setting, *, field: str) -> None:
        """Refuses a list that is too long.

        Raises:
            InvalidArgument: it has more elements than the limit.
        """
        limit = self._limit(setting)
        if len(values) > limit:
            raise InvalidArgument(f"{field} has {len(values)} elements; {_told(limit, setting)}", field=field)

    def _limit(self, setting: Setting) -> int:
        limit: int = getattr(self._serving, setting)
        return limit


def _told(limit: int, setting: str) -> str:
    return f"this server's limit is {limit} (serving.{setting} in its settings)"
