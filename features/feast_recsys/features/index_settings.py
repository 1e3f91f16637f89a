"""The `index:` section of a recommender's retrieval: chosen by measurement, or fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.index.spec import ENGINES, KINDS, IndexSpec, spec_of

Recall = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]

# Pydantic puts the tag of a union into the path of an error, where nobody wrote it.
_MEASURED, _FIXED, _ENGINE = "index:measured", "index:fixed", "index:engine"


class _Measure(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    recall: Recall = 0.99
    """Share of the `k` items that exact search finds; what the lower end of a 95 % confidence interval must reach. With
    a filter, too, but for Milvus and Qdrant: there it is that of the engine."""
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
            if kind in ENGINES:
                raise PydanticCustomError(
                    "index_kind",
                    "{kind} is not measured among others; name it alone: `index: {left}kind: {kind}{right}`",
                    {"kind": kind, "left": "{", "right": "}"},
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


class EngineIndex(FixedIndex):
    """Milvus or Qdrant, with its parameters: on a server, or embedded in the bundle. See docs/milvus-qdrant.md."""

    kind: str
    """`milvus` or `qdrant`."""
    address: str | None = None
    """Where its server is, such as `http://milvus:19530`; None for an embedded one. Its secret comes from the
    environment: `MILVUS_TOKEN` or `QDRANT_API_KEY`."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 1.0
    """How long one search of a server may take."""

    @field_validator("address")
    @classmethod
    def _know_address(cls, address: str | None) -> str | None:
        if address is None:
            return None
        wrong = _wrong_address(address)
        if wrong:
            # Without the address: what is wrong about it may be a secret in it.
            raise PydanticCustomError(
                "index_address", "{wrong}; write it as http://HOST:PORT or https://HOST:PORT", {"wrong": wrong}
            )
        return address.rstrip("/")


def _wrong_address(address: str) -> str:
    """What is wrong about the address of a server; empty if nothing."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is no address"
    if parts.username is not None or parts.password is not None:
        return "a secret does not belong into the address but into MILVUS_TOKEN or QDRANT_API_KEY of the environment"
    if parts.scheme not in ("http", "https") or not host:
        return "it is no address of a server"
    if parts.path.strip("/") or parts.query or parts.fragment:
        return "nothing may follow its port"
    return ""


def _tag(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _ENGINE if isinstance(value, EngineIndex) else _FIXED if isinstance(value, FixedIndex) else _MEASURED
    if "kind" not in value:
        return _MEASURED
    return _ENGINE if value["kind"] in ENGINES else _FIXED


IndexSettings: TypeAlias = Annotated[
    Annotated[MeasuredIndex, Tag(_MEASURED)]
    | Annotated[FixedIndex, Tag(_FIXED)]
    | Annotated[EngineIndex, Tag(_ENGINE)],
    Discriminator(_tag),
]
"""A section with `kind` is fixed, in an engine of its own if it names one of these; any other is measured."""


def setting_path(section: str, location: Iterable[int | str]) -> str:
    """The path of a setting as the file has it, from where pydantic found an error."""
    return ".".join([section, *(str(part) for part in location if part not in (_MEASURED, _FIXED, _ENGINE))])
