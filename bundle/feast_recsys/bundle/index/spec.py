"""Which kind of index, with which parameters: what settings say, and what a manifest keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from feast_recsys.bundle.errors import InvalidSettings

Number = int | float


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kind of index.

    Attributes:
        default: Its value where nothing is said; 0 lets the build choose by the number of items.
        least: Smallest allowed value.
        built: Whether it shapes the files. Others may change from search to search.
    """

    default: Number
    least: Number
    built: bool = False


_LISTS = {"lists": Parameter(0, 0, built=True)}
_PROBES = {"probes": Parameter(16, 1)}

_GRAPH = {"m": Parameter(16, 4, built=True), "building": Parameter(200, 8, built=True), "breadth": Parameter(200, 1)}

_PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    "exact": {},
    "ivf_flat": _LISTS | _PROBES,
    "ivf_sq8": _LISTS | _PROBES | {"widening": Parameter(1.5, 1.0)},
    "ivf_pq": _LISTS | _PROBES | {"widening": Parameter(4.0, 1.0)},
    "hnsw": {
        "links": Parameter(32, 2, built=True),
        "building": Parameter(100, 1, built=True),
        "breadth": Parameter(200, 1),
    },
    "scann": {
        "leaves": Parameter(0, 0, built=True),
        "leaves_searched": Parameter(30, 1),
        "widening": Parameter(2.0, 1.0),
    },
    "milvus": _GRAPH,
    "qdrant": _GRAPH,
}

ENGINES = ("milvus", "qdrant")
"""Kinds that are databases of their own: on a server, or embedded in the bundle; see `remote`."""

KINDS = tuple(_PARAMETERS)
"""`exact`; inverted lists (`ivf_`) of vectors as they are, of 8 bits a number, or of product-quantized codes that are
scanned fast, the latter two with exact scores for `widening` times as many items as are wanted; `hnsw`; `scann`; and
ENGINES."""


@dataclass(frozen=True)
class IndexSpec:
    """An index, but for the vectors.

    Attributes:
        kind: One of KINDS.
        build: Parameters that shape the files, by name.
        search: Parameters of a search, by name.
    """

    kind: str
    build: Mapping[str, Number]
    search: Mapping[str, Number]

    def __str__(self) -> str:
        known = _PARAMETERS.get(self.kind, {})
        values = {
            # What was left to the build has no value before it, and may have another one after the next.
            name: "auto" if not value and name in known and not known[name].default else f"{value:g}"
            for name, value in {**self.build, **self.search}.items()
        }
        return " ".join([self.kind, *(f"{name}={value}" for name, value in values.items())])

    def searching(self, **parameters: Number) -> IndexSpec:
        """The same files, searched otherwise."""
        return replace(self, search={**self.search, **parameters})

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"kind": self.kind, "build": dict(self.build), "search": dict(self.search)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> IndexSpec:
        """The inverse of `document`; raises KeyError, TypeError or ValueError where it is none."""
        try:
            return spec_of(document["kind"], {**document["build"], **document["search"]})
        except InvalidSettings as error:
            raise ValueError(error.message) from error


def spec_of(kind: str, parameters: Mapping[str, Any]) -> IndexSpec:
    """An index with the given parameters, and defaults for the others.

    Raises:
        InvalidSettings: the kind or a parameter is unknown, no number, or out of range; names it.
    """
    if kind not in _PARAMETERS:
        raise InvalidSettings(f"no index kind {kind!r}; there are: {', '.join(KINDS)}", field="kind")
    known = _PARAMETERS[kind]
    for name, value in parameters.items():
        if name not in known:
            there = f"it has: {', '.join(known)}" if known else "it has none"
            raise InvalidSettings(f"index kind {kind!r} has no parameter {name!r}; {there}", field=name)
        whole = isinstance(known[name].default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise InvalidSettings(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}", field=name)
        if not value >= known[name].least:
            raise InvalidSettings(f"{name} must be at least {known[name].least}, not {value}", field=name)
    values = {name: parameters.get(name, parameter.default) for name, parameter in known.items()}
    return IndexSpec(
        kind,
        {name: value for name, value in values.items() if known[name].built},
        {name: value for name, value in values.items() if not known[name].built},
    )
