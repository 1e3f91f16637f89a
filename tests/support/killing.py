"""Ends a piece of work by SIGKILL just before its n-th change to a folder, for every n.

A `Killer` is a process that has imported the work already and forks a child for each attempt, so that an attempt costs
milliseconds. The child counts Python's audit events of opening for writing, renaming, making and removing below
the folder.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate"}


class Killer:
    """Runs `function(folder)` of a module in children that die at a given step."""

    def __init__(self, module: str, function: str) -> None:
        command = [sys.executable, "-m", "support.killing", module, function]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def attempt(self, folder: Path, step: int) -> bool:
        """Whether the work was killed before its step-th change; False when it ended before it came that far."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{step} {folder}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if answer not in ("killed", "done"):
            raise AssertionError(f"the work failed by itself before step {step}: {answer or 'see stderr'}")
        return answer == "killed"


def _changes(event: str, args: tuple[Any, ...], folder: str) -> bool:
    if event == "open":
        path, _, flags = args
        writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(writing) and isinstance(path, str | Path) and str(path).startswith(folder)
    if event not in _CHANGES:
        return False
    # shutil.rmtree names files relative to an open folder: they have a descriptor and no full path.
    return str(args[0]).startswith(folder) or not os.path.isabs(str(args[0]))


def _die_before(step: int, folder: str) -> None:
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if _changes(event, args, folder):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _serve(module: str, function: str) -> None:
    work = getattr(importlib.import_module(module), function)
    replies = os.dup(1)
    os.dup2(2, 1)  # what the work prints must not mix with the answers
    for line in sys.stdin:
        step, _, folder = line.strip().partition(" ")
        child = os.fork()
        if child == 0:
            _die_before(int(step), folder)
            try:
                work(Path(folder))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        answer = {0: "done", -signal.SIGKILL: "killed"}.get(code, f"exit {code}")
        os.write(replies, f"{answer}\n".encode())


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2])
