"""A worker's place among those that answer on one port, and what they share: a private folder.

folder/
  CURRENT              name of the last bundle whose checksums were right
  TURN                 locked by the worker that is loading a bundle
  worker-1.cells ...   what each process counted
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from feast_recsys.bundle.store import POINTER

_TURN = "TURN"


@dataclass(frozen=True)
class Seat:
    """The place of one worker.

    Attributes:
        folder: What it shares with the others.
        name: Its own name, the same for the worker that replaces it.
    """

    folder: Path
    name: str

    @property
    def counts(self) -> Path:
        """Where its numbers live."""
        return self.folder / self.name

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Whether this worker may load a bundle now; never two at a time. A worker that dies gives its turn back."""
        descriptor = os.open(self.folder / _TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


def point_workers(folder: Path, bundle_id: str) -> None:
    """Lets the workers that share a folder take a bundle into service."""
    beside = folder / f"{POINTER}.new"
    beside.write_text(bundle_id + "\n", "utf-8")
    beside.replace(folder / POINTER)
