"""The collections that the jobs of a folder of bundles made on servers, so that none is forgotten there.

A collection is written down before it is made, and struck out after it is dropped: whoever dies in between leaves a
line, and the next job looks after it. Only what is written here is ever dropped: folders of bundles that share a server
do not touch each other's collections.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from feast_recsys.bundle.errors import CorruptArtifact

LEDGER_FILE = ".collections.json"

# What every engine takes in a name, and how much of a name is kept.
_UNSAFE = re.compile(r"[^A-Za-z0-9_]")
_LONGEST = 80


@dataclass(frozen=True)
class Held:
    """One collection on a server.

    Attributes:
        kind: Of the engine.
        address: Of the server.
        collection: Its name.
        alias: Name under which people find it while its bundle is the current one.
        bundle_id: The bundle that it was made for.
    """

    kind: str
    address: str
    collection: str
    alias: str
    bundle_id: str


class Ledger:
    """The file, read anew by each call.

    Args:
        root: Folder of bundles; the job's lease must be held to write.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / LEDGER_FILE

    def read(self) -> list[Held]:
        """All lines, oldest first.

        Raises:
            CorruptArtifact: the file is no such list; says what to do.
        """
        try:
            return [Held(**line) for line in json.loads(self._path.read_text("utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise CorruptArtifact(
                f"{self._path} can't be read: {error}; remove it, and drop the collections of bundles that are gone by "
                "hand (docs/milvus-qdrant.md)"
            ) from error

    def add(self, lines: Iterable[Held]) -> None:
        """Writes lines down."""
        self._write([*self.read(), *lines])

    def strike(self, line: Held) -> None:
        """Takes a line away."""
        self._write([other for other in self.read() if other != line])

    def _write(self, lines: list[Held]) -> None:
        beside = self._path.with_suffix(".new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)


def alias_of(project: str, name: str) -> str:
    """`<project>_<recommender>`, with nothing in it that an engine would not take.

    Args:
        project: Feast project.
        name: Of a recommender, or a joint name.
    """
    alias = f"{_safe(project)}_{_safe(name)}"
    return f"_{alias}" if alias[0].isdigit() else alias


def collection_of(project: str, name: str, bundle_id: str) -> str:
    """Name of the collection of one bundle: its alias, and the bundle's id with `_` for `-`."""
    return f"{alias_of(project, name)}_{_UNSAFE.sub('_', bundle_id)}"


def _safe(text: str) -> str:
    """Letters, digits and underscores; where something else was, a checksum keeps different names different."""
    safe = _UNSAFE.sub("_", text)[:_LONGEST]
    return safe if safe == text else f"{safe}_{zlib.crc32(text.encode()):08x}"
