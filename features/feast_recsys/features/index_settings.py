"""The `index:` section of a recommender's retrieval: chosen by measurement, or fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.index.spec import KINDS, IndexSpec, spec_of

Recall = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]

# Pydantic puts the tag of a union into the path of an error, where nobody wrote it.
_MEASURED, _FIXED = "index:measured", "index:fixed"


class _Measure(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    recall: Recall = 0.99
    """Share of the `k` items that exact search finds; what the lower end of a 95 % confidence interval must reach. With
    a filter, too."""
    k: Positive = 100
    """Number of items at which recall is measured."""
    sample: Annotated[int, Field(ge=100)] = 1000
    """Users whose queries are measured."""
    compaction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Share of the items up to which new and changed ones are searched beside the index, and gone ones passed over in
    it; beyond, `materialize --incremental` builds it anew."""


class MeasuredIndex(_Measure):
    """The fastest index that reaches a recall on queries of real users."""

    kinds: tuple[str, ...] = ()
    """Kinds to measure beside exact search; empty for all whose library is installed."""
    exact_microseconds: Annotated[float, Field(ge=0)] = 500.0
    """Exact search stays where one query takes no longer on one thread, and nothing else is measured then."""
    budget_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Time after which no further kind is built to be measured."""

    @model_validator(mode="after")
    def _know_kinds(self) -> MeasuredIndex:
        for kind in self.kinds:
            if kind not in KINDS:
                raise PydanticCustomError(
                    "index_kind", "no index kind {kind}; there are: {known}", {"kind": kind, "known": ", ".join(KINDS)}
                )
        return self


class FixedIndex(_Measure):
    """One kind with its parameters. Recall is measured and shown, but decides nothing."""

    # The parameters depend on the kind; its own check names a wrong one.
    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    kind: str
    """Kind of index."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the section says beside the settings of every kind."""
        return dict(self.model_extra or {})

    def spec(self) -> IndexSpec:
        """The index that is to be built.

        Raises:
            InvalidSettings: the kind or a parameter is unknown or out of range.
        """
        return spec_of(self.kind, self.parameters)

    @model_validator(mode="after")
    def _know_parameters(self) -> FixedIndex:
        try:
            self.spec()
        except InvalidSettings as error:
            raise PydanticCustomError("index_parameters", "{text}", {"text": error.message}) from error
        return self


def _tag(value: Any) -> str:
    fixed = "kind" in value if isinstance(value, Mapping) else isinstance(value, FixedIndex)
    return _FIXED if fixed else _MEASURED


IndexSettings: TypeAlias = Annotated[
    Annotated[MeasuredIndex, Tag(_MEASURED)] | Annotated[FixedIndex, Tag(_FIXED)], Discriminator(_tag)
]
"""A section with `kind` is fixed, any other measured."""


def setting_path(section: str, location: Iterable[int | str]) -> str:
    """The path of a setting as the file has it, from where pydantic found an error."""
    return ".".join([section, *(str(part) for part in location if part not in (_MEASURED, _FIXED))])
