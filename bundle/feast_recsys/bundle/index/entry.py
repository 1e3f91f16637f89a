"""What a manifest says of a recommender's index: which, why, and all that was measured before it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.index.switching import Switching

EXACT = "exact"


@dataclass(frozen=True)
class Measurement:
    """One index, measured on queries of real users.

    Attributes:
        spec: What was measured.
        recall: Mean share of exact search's k items that it found.
        low: Lower end of the 95 % confidence interval of `recall`.
        high: Its upper end.
        microseconds: Mean time of one query on one thread.
        build_seconds: Time to build it with all cores; 0 for exact search, which builds nothing.
        bytes: Size of its files beside the vectors.
    """

    spec: IndexSpec
    recall: float
    low: float
    high: float
    microseconds: float
    build_seconds: float = 0.0
    bytes: int = 0

    def reaches(self, recall: float) -> bool:
        """Whether even the lower end of the interval is that high."""
        return self.low >= recall

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Measurement:
        """From JSON; raises KeyError, TypeError or ValueError where it is none."""
        return cls(**{**document, "spec": IndexSpec.of(document["spec"])})


@dataclass(frozen=True)
class Remote:
    """Where a server keeps the vectors of one bundle.

    Attributes:
        address: Of the server, such as `http://milvus:19530`.
        collection: Name of the collection, which is this bundle's alone.
        timeout_seconds: How long one search may take.
    """

    address: str
    collection: str
    timeout_seconds: float


@dataclass(frozen=True)
class IndexEntry:
    """The index of one recommender.

    Attributes:
        spec: The index that answers.
        folder: Folder of its files inside the bundle; None for exact search, which needs only the vectors, and for what
            a server holds.
        why: Why this one, in a few words.
        recall: What it was to reach.
        k: Number of items at which recall was measured.
        items: Number of items among which it was chosen.
        queries: Number of different queries; 0 if nothing was measured.
        asked: Whose queries these were, in a few words; empty if nothing was measured.
        measured: What was measured of `spec`; None if nothing was.
        curve: Everything that was measured, in the order of time.
        switching: Which way a filtered search goes; None for exact search.
        segments: Folder of what leads from the items that the index was built of to those of now, see `segments`; None
            if these are the same.
        remote: Where a server holds it; None for all that is in the bundle.
    """

    spec: IndexSpec
    folder: str | None
    why: str
    recall: float
    k: int
    items: int
    queries: int = 0
    asked: str = ""
    measured: Measurement | None = None
    curve: tuple[Measurement, ...] = ()
    switching: Switching | None = None
    segments: str | None = None
    remote: Remote | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> IndexEntry:
        """From JSON; raises KeyError, TypeError or ValueError where it is none."""
        measured, switching, remote = document["measured"], document["switching"], document.get("remote")
        parts = {
            "spec": IndexSpec.of(document["spec"]),
            "measured": Measurement.of(measured) if measured else None,
            "curve": tuple(Measurement.of(point) for point in document["curve"]),
            "switching": Switching.of(switching) if switching else None,
            "remote": Remote(**remote) if remote else None,
        }
        return cls(**{**document, **parts})
