"""The `sources:` section of a recommender: where its candidates come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.filters import Filter, parse_filter

OWN = "retrieval"
"""The recommender's own retrieval model as a source where none is listed, or where all that are fall short."""

SIMILAR = "similar"
"""Items like the seed items of a request by the recommender's own model, where no source of kind `similar` is listed,
or where all that are fall short."""

Kind = Literal["model", "popular", "recent", "similar"]

# What each kind takes beside what all of them take.
_TAKES: Mapping[str, tuple[str, ...]] = {
    "model": ("model",),
    "popular": ("days",),
    "recent": ("by",),
    "similar": ("model", "history", "seeds"),
}
_OF_A_KIND = tuple(dict.fromkeys(name for names in _TAKES.values() for name in names))
_SEEDS = 5
_COLD_BELOW = 5


class Source(BaseModel):
    """One place that candidates come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]
    """What requests and answers call it. `retrieval` is the recommender's own model, `similar` likeness by that."""
    kind: Kind = "model"
    """`model`: nearest to the user by a retrieval model; `popular`: liked most often; `recent`: largest value of a
    feature; `similar`: like what the user did last, or like the seed items of a request."""
    quota: Annotated[int, Field(gt=0)] | None = None
    """Its share of the candidates: so many of the sum of all quotas. None only fills up what others lack."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """`model`, `similar`: name of an exported retrieval model; None is the recommender's own."""
    days: Annotated[float, Field(gt=0)] | None = None
    """`popular`: likes of so many days before the bundle's time count; None counts all."""
    by: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")] | None = None
    """`recent`: number or time feature of items, as view:feature; those without a value don't come."""
    history: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")] | None = None
    """`similar`: list feature of the user with item ids, most recent first; None is the `history` of `retrieval`."""
    seeds: Annotated[int, Field(gt=0)] | None = None
    """`similar`: how many of the last items to look at; None is 5."""
    only: Literal["cold"] | None = None
    """`cold`: only items with fewer than `cold_below` likes come from it."""
    cold_below: Annotated[int, Field(gt=0)] | None = None
    """See `only`; None is 5."""
    filter: Mapping[str, Any] | None = None
    """Only items that pass come from it; written as Feast writes filters: {type: gte, key: view:feature, value: 1}."""

    @property
    def counts_likes(self) -> bool:
        """Whether interactions say what comes from it."""
        return self.kind == "popular" or self.only == "cold"

    @property
    def last_items(self) -> int:
        """How many items of a history it looks at."""
        return self.seeds or _SEEDS

    @property
    def known_from(self) -> int:
        """The number of likes from which on an item is not cold any more."""
        return self.cold_below or _COLD_BELOW

    @property
    def condition(self) -> Filter | None:
        """Which items may come from it by their features; None for all."""
        return None if self.filter is None else parse_filter(dict(self.filter), "filter")

    def shape(self) -> dict[str, Any]:
        """All that decides what a bundle holds of it, as JSON has it."""
        shape = self.model_dump(mode="json", include={"kind", "model", "days", "by", "only", "filter"})
        return shape | ({"cold_below": self.known_from} if self.only else {})

    @model_validator(mode="after")
    def _fit_kind(self) -> Source:
        takes = _TAKES[self.kind]
        for name in _OF_A_KIND:
            if name not in takes and getattr(self, name) is not None:
                raise PydanticCustomError(
                    "source_kind",
                    "{setting} says nothing for a source of kind {kind}; remove it, or choose another kind",
                    {"setting": name, "kind": self.kind},
                )
        if self.cold_below is not None and self.only is None:
            raise PydanticCustomError(
                "source_cold", "cold_below says nothing without `only: cold`; add that, or remove it"
            )
        if self.kind == "recent" and self.by is None:
            raise PydanticCustomError("source_by", "a source of kind recent needs `by`: the feature that orders items")
        if self.name == OWN and (self.kind != "model" or self.model or self.only or self.filter):
            raise PydanticCustomError(
                "source_own", "the name retrieval is the recommender's own model, whole; choose another name"
            )
        if self.name == SIMILAR and (self.kind != "similar" or self.model or self.only or self.filter):
            raise PydanticCustomError(
                "source_similar",
                "the name similar is likeness by the recommender's own model, of all items; choose another name",
            )
        try:
            _ = self.condition
        except InvalidArgument as error:
            raise PydanticCustomError("source_filter", "{text}", {"text": error.message}) from error
        return self


def check_sources(sources: tuple[Source, ...], history: str | None) -> tuple[Source, ...]:
    """Refuses sources that don't go together.

    Args:
        sources: In the order in which they are asked.
        history: The recommender's list feature with the user's last items.

    Raises:
        PydanticCustomError: names the source and the remedy.
    """
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise PydanticCustomError("source_twice", "two sources are called {name}; rename one", {"name": name})
    for source in sources:
        if source.kind == "similar" and source.history is None and history is None:
            raise PydanticCustomError(
                "source_history",
                "source {name} needs to know what the user did last; set its `history`, or that of `retrieval`",
                {"name": source.name},
            )
    return sources
