"""The `reranking:` section of a recommender: how its ranked items are arranged."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

MAX_CAPS = 32
"""Caps of a recommender, and of one request."""


class Cap(BaseModel):
    """A limit for items with the same value."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    key: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]
    """Item feature, as view:feature: text, whole number, truth value, or a list of such, each element of which counts.
    Items without a value are not limited."""
    max_items: Annotated[int, Field(gt=0)]
    """Most items with the same value."""


class Reranking(BaseModel):
    """How Rank and Recommend arrange what was ranked. A request's own replaces all of it but the blocked items."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True)

    relevance_weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Weight of the probability against the likeness to items placed before; 1 is the order of probability, less is
    more diverse."""
    caps: Annotated[tuple[Cap, ...], Field(max_length=MAX_CAPS)] = ()
    """Limits for values of item features; all are held. At most 32."""
    pinned_item_ids: tuple[str, ...] = ()
    """Items that come first, in this order, where they are eligible. At most `serving.max_top_k`."""
    blocked_item_ids: tuple[str, ...] = ()
    """Items that never come back from Rank or Recommend, whatever a request says. At most `serving.max_exclusions`."""

    @field_validator("blocked_item_ids")
    @classmethod
    def _choose_one(cls, blocked: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        both = set(blocked).intersection(info.data.get("pinned_item_ids", ()))
        if both:
            raise PydanticCustomError(
                "pinned_and_blocked",
                "item {item} is in pinned_item_ids as well; remove it from one of them",
                {"item": min(both)},
            )
        return blocked
