"""What is compared: our kinds of indexes, and the libraries called as their own documentation does it.

Each is built into a folder and opened from it, so that a build is made once and its memory can be measured in a process
of its own. All search with one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from benchmarks.retrieval import bare_faiss, graphs

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, candidates, open_index
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.spec import IndexSpec, Number, spec_of
from feast_recsys.bundle.index.switching import Switching

OURS, FAISS, SCANN = "ours", "faiss", "scann"
PACKAGES = {OURS: "faiss", FAISS: "faiss", "usearch": "usearch", "hnswlib": "hnswlib", SCANN: "scann"}
"""By library, the module that must be there."""

EFFORT = {"hnsw": "breadth", "scann": "leaves_searched"}
"""By kind, the parameter that buys recall with time; `probes` for inverted lists."""


class Opened(Protocol):
    """An index in memory. `effort` is what recall is bought with: probes, breadth, leaves."""

    def prepare(self, effort: int) -> None:
        """Sets the effort of the searches that follow."""

    def search(self, query: Vectors, k: int) -> Rows:
        """[k] rows for a query [1, d], or fewer; -1 stands for none."""

    def own_filter(self, allow: Allowed) -> Any:
        """A filter as the library has it; None if it knows none."""

    def filtered(self, query: Vectors, k: int, own_filter: Any) -> Rows:
        """Like `search`, of what passes."""


@dataclass(frozen=True)
class Build:
    """Files that a library makes of items.

    Attributes:
        library: One of PACKAGES.
        kind: As ours are called: `hnsw` is any graph of that family.
        parameters: What shapes the files.
    """

    library: str
    kind: str
    parameters: Mapping[str, Number] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([f"{self.library} {self.kind}", *(f"{k}={v:g}" for k, v in self.parameters.items())])

    @property
    def folder(self) -> str:
        """Its name as that of a folder. What we build with ScaNN is what it would build itself; the call differs."""
        library = OURS if self.library == SCANN else self.library
        return "-".join([library, self.kind, *(f"{k}{v:g}" for k, v in self.parameters.items())])


@dataclass(frozen=True)
class Setting:
    """A build and how it is searched.

    Attributes:
        build: The files.
        fixed: Parameters of a search that stay as they are.
        effort: The one that buys recall.
    """

    build: Build
    fixed: Mapping[str, Number] = field(default_factory=dict)
    effort: int = 1

    def __str__(self) -> str:
        searched = {EFFORT.get(self.build.kind, "probes"): self.effort, **self.fixed}
        if self.build.kind == "exact":
            searched = {}
        return " ".join([str(self.build), *(f"{name}={value:g}" for name, value in searched.items())])

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Setting:
        """The inverse of `document`."""
        return cls(Build(**document["build"]), document["fixed"], document["effort"])

    def spec(self) -> IndexSpec:
        """As one of our indexes."""
        effort = EFFORT.get(self.build.kind, "probes")
        searched = {} if self.build.kind == "exact" else {effort: self.effort}
        return spec_of(self.build.kind, {**self.build.parameters, **self.fixed, **searched})

    @classmethod
    def of(cls, spec: IndexSpec) -> Setting:
        """One of our indexes."""
        effort = EFFORT.get(spec.kind, "probes")
        fixed = {name: value for name, value in spec.search.items() if name != effort}
        return cls(Build(OURS, spec.kind, spec.build), fixed, int(spec.search.get(effort, 1)))

    def bare(self) -> Setting | None:
        """The library that one of ours calls, with the same parameters; None for exact search."""
        if self.build.library != OURS or self.build.kind == "exact":
            return None
        library = SCANN if self.build.kind == "scann" else FAISS
        return Setting(Build(library, self.build.kind, self.build.parameters), self.fixed, self.effort)


def installed(library: str) -> bool:
    """Whether a library can be measured here."""
    return find_spec(PACKAGES[library]) is not None


def settings(library: str, n: int, dimension: int) -> list[Setting]:
    """What is tried of a library for n items, each with the least effort."""
    if library in graphs.LINKS:
        return [Setting(Build(library, "hnsw", {"links": links}), effort=100) for links in graphs.LINKS[library]]
    found: dict[str, Setting] = {}
    for spec in _specs(n, dimension):
        ours = Setting.of(spec)
        mine = ours if library == OURS else ours.bare()
        if mine is not None and mine.build.library == library:
            found.setdefault(f"{mine.build} {dict(mine.fixed)}", mine)
    return list(found.values())


def _specs(n: int, dimension: int) -> Iterator[IndexSpec]:
    """Candidates of the job, and graphs at any size."""
    yield from candidates(n, dimension)
    yield spec_of("hnsw", {"links": 32, "breadth": 100})


def build(what: Build, items: Vectors, folder: Path, threads: int) -> None:
    """Writes the files of a build into a folder, which must be there.

    Args:
        what: The build.
        items: [n, d] float32.
        folder: Empty.
        threads: As many as the library may use. Ours go by OMP_NUM_THREADS.
    """
    if what.library in (OURS, SCANN):
        build_index(spec_of(what.kind, what.parameters), items, folder)
    elif what.library == FAISS:
        bare_faiss.build(what.kind, what.parameters, items, folder, threads)
    else:
        graphs.build(what.library, what.parameters, items, folder, threads)


def open_built(setting: Setting, items: Vectors, folder: Path, switching: Switching | None = None) -> Opened:
    """Opens the files of a build.

    Args:
        setting: What was built, and the fixed parameters of its searches.
        items: [n, d] float32.
        folder: The files.
        switching: What was measured of one of ours, for filtered searches.
    """
    what = setting.build
    if what.library == OURS:
        return Ours(lambda effort: open_index(_at(setting, effort), folder, items, switching))
    if what.library == FAISS:
        return bare_faiss.open_bare(what.kind, setting.fixed, folder)
    if what.library == SCANN:
        return BareScann(folder, float(setting.fixed["widening"]))
    return graphs.open_graph(what.library, items.shape[1], folder)


@dataclass
class Ours:
    """One of our indexes, opened anew for each effort."""

    opening: Callable[[int], Index]

    def __post_init__(self) -> None:
        self._opened: tuple[int, Index] | None = None

    @property
    def index(self) -> Index:
        """At the effort that was set."""
        assert self._opened is not None, "prepare() comes first"
        return self._opened[1]

    def prepare(self, effort: int) -> None:
        """See Opened.prepare."""
        if self._opened is None or self._opened[0] != effort:
            self._opened = effort, self.opening(effort)

    def search(self, query: Vectors, k: int) -> Rows:
        """See Opened.search."""
        rows: Rows = self.index.search(query, k)[0][0]
        return rows

    def own_filter(self, allow: Allowed) -> Allowed:
        """See Opened.own_filter."""
        return allow

    def filtered(self, query: Vectors, k: int, own_filter: Allowed) -> Rows:
        """See Opened.filtered."""
        rows: Rows = self.index.search(query, k, own_filter)[0][0]
        return rows


def exact(items: Vectors) -> Ours:
    """Our exact search."""
    return Ours(lambda _: ExactIndex(items))


class BareScann:
    """ScaNN's searcher. It knows no filter.

    Args:
        folder: Its files.
        widening: How many times k items are compared exactly.
    """

    def __init__(self, folder: Path, widening: float) -> None:
        import scann

        self._searcher = scann.scann_ops_pybind.load_searcher(str(folder))
        self._widening, self._leaves = widening, 1

    def prepare(self, effort: int) -> None:
        """See Opened.prepare."""
        self._leaves = effort

    def search(self, query: Vectors, k: int) -> Rows:
        """See Opened.search."""
        found, _ = self._searcher.search(query[0], k, round(k * self._widening), self._leaves)
        return np.asarray(found, np.int64)

    def own_filter(self, allow: Allowed) -> None:
        """See Opened.own_filter."""

    def filtered(self, query: Vectors, k: int, own_filter: Any) -> Rows:
        """See Opened.filtered."""
        raise NotImplementedError("ScaNN knows no filter")


def _at(setting: Setting, effort: int) -> IndexSpec:
    return Setting(setting.build, setting.fixed, effort).spec()
