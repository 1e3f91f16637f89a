"""One materialization at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from feast_recsys.bundle.errors import JobFailed

LEASE_FILE = ".lease"


@contextmanager
def hold_lease(folder: Path) -> Iterator[None]:
    """Holds the lease of a folder of bundles while the body runs.

    It is a lock of the operating system on a file, so it ends with its process, however that ends. The file's content
    only tells others who holds it.

    Raises:
        JobFailed: another process holds it; names its id and host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LEASE_FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobFailed(
                f"another materialization is running: {_holder(path)}; wait until it has ended, or stop it"
            ) from None
        moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
        _write(path, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": moment}))
        try:
            yield
        finally:
            # Emptied and not removed: somebody may have opened the file and be about to lock it.
            _write(path, "")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has only just begun"
