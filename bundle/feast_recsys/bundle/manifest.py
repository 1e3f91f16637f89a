"""What a bundle is made of: one JSON file beside the rest, with a checksum for every other file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.entry import IndexEntry

MANIFEST_FILE = "manifest.json"
FORMAT = 1

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class RecommenderEntry:
    """The parts of one recommender, as paths inside the bundle.

    Attributes:
        retrieval: Folder of the exported retrieval model.
        vectors: File of the item vectors.
        item_encoder: SHA-256 of the graph that made the vectors.
        ranking: Folder of the exported ranking model; None if the recommender only retrieves.
        item_columns: Folder with what the ranking model's item part gave; None if it has no such part.
        sources: By name, what is held of its sources of candidates.
        index: What searches the vectors; None in bundles from before there was a choice: exact search.
        searched: File of the vectors in the form that the index searches, see `index.reduction`; None where they are
            searched as they are, by inner product.
        centre: File of the centre of that form; None where it has none.
    """

    retrieval: str
    vectors: str
    item_encoder: str
    ranking: str | None = None
    item_columns: str | None = None
    sources: Mapping[str, SourceEntry] = field(default_factory=dict)
    index: IndexEntry | None = None
    searched: str | None = None
    centre: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> RecommenderEntry:
        """From JSON; raises KeyError, TypeError or ValueError where it is none."""
        sources = {name: SourceEntry.of(part) for name, part in document.get("sources", {}).items()}
        index = document.get("index")
        return cls(**{**document, "sources": sources, "index": IndexEntry.of(index) if index is not None else None})


@dataclass(frozen=True)
class SourceEntry:
    """What a bundle holds of a source of candidates, as paths inside the bundle.

    Attributes:
        shape: The settings that it was made by.
        model: The parts of its retrieval model; None if that is the recommender's own, or it has none.
        listing: Folder of the items that it lists, see `listing`; None if it lists none.
        rows: File of the rows that may come from it, ascending; None for all.
    """

    shape: Mapping[str, Any]
    model: RecommenderEntry | None = None
    listing: str | None = None
    rows: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> SourceEntry:
        """From JSON; raises KeyError, TypeError or ValueError where it is none."""
        model = document["model"]
        return cls(**{**document, "model": RecommenderEntry.of(model) if model else None})


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Facts about a bundle.

    Attributes:
        bundle_id: Its name: the time and the start of the fingerprint.
        as_of: Unix seconds at which item features and vectors were read.
        fingerprint: SHA-256 over what went in (models, settings, catalogue content); equal inputs, equal fingerprint.
        items: Number of items.
        project: Feast project.
        recommenders: By name.
        files: Every other file of the bundle, by path inside it.
        metadata: Facts for people: versions, row counts, what was audited.
    """

    bundle_id: str
    as_of: int
    fingerprint: str
    items: int
    project: str
    recommenders: Mapping[str, RecommenderEntry]
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes `manifest.json` into the folder."""
        document = {"format": FORMAT, **asdict(self)}
        (folder / MANIFEST_FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads `manifest.json` of a folder.

        Raises:
            CorruptArtifact: it is missing, broken or of an unknown format.
        """
        path = folder / MANIFEST_FILE
        try:
            document = json.loads(path.read_text("utf-8"))
            version = document.pop("format")
            if version != FORMAT:
                raise CorruptArtifact(f"{path} has format {version}; this version reads {FORMAT}: materialize again")
            entries = {k: RecommenderEntry.of(v) for k, v in document.pop("recommenders").items()}
            files = {k: FileEntry(**v) for k, v in document.pop("files").items()}
            return cls(recommenders=entries, files=files, **document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptArtifact(f"{path} can't be read: {error}") from error


def checksum(path: Path) -> FileEntry:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as stream:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := stream.readinto(block):
            digest.update(block[:count])
            size += count
    return FileEntry(size, digest.hexdigest())


def inventory(folder: Path, verified: tuple[Path, Manifest] | None = None) -> dict[str, FileEntry]:
    """Every file below a folder except the manifest, by its path from there.

    Args:
        folder: The folder.
        verified: Another bundle that was just held against its manifest: files that are hard links of its files are not
            read again.
    """
    known = {}
    if verified is not None:
        there, manifest = verified
        known = {_identity(there / name): entry for name, entry in manifest.files.items()}
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST_FILE)
    return {p.relative_to(folder).as_posix(): known.get(_identity(p)) or checksum(p) for p in files}


def _identity(path: Path) -> tuple[int, int]:
    """The same for hard links of one file alone."""
    found = path.stat()
    return found.st_dev, found.st_ino


def verify(folder: Path, manifest: Manifest) -> None:
    """Holds every file of a bundle against the manifest.

    Raises:
        CorruptArtifact: a file is missing, altered or not listed; names the first.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CorruptArtifact(f"bundle {manifest.bundle_id} lacks {name}")
        if path.stat().st_size != expected.bytes or checksum(path) != expected:
            raise CorruptArtifact(f"bundle {manifest.bundle_id}: {name} differs from its checksum")
    present = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in sorted(set(present) - set(manifest.files) - {MANIFEST_FILE}):
        raise CorruptArtifact(f"bundle {manifest.bundle_id}: {name} is not in its manifest")
