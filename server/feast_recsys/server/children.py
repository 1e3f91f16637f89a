"""Child processes: forked, told apart, waited for."""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from feast_recsys.bundle.errors import RecsysError

logger = logging.getLogger(__name__)

Body = Callable[["Life"], None]
STOPPING = (signal.SIGTERM, signal.SIGINT)


class Life:
    """Tells a child when it is to end: on SIGTERM, or because its parent is gone, however that ended.

    Args:
        parent: Reading end of a pipe whose writing end only the parent has.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._wakeup = -1

    def begin(self, *, heed_sigterm: bool) -> None:
        """Takes over the signals.

        Ctrl-C in a terminal reaches every process of it, and service managers send SIGTERM to every process of a
        service. So only the parent heeds SIGINT, and SIGTERM twice is no more than once.

        Args:
            heed_sigterm: Whether SIGTERM ends this one, too.
        """
        self._wakeup, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, nothing if heed_sigterm else signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def over(self, timeout: float | None = None) -> bool:
        """Waits until it is to end, at most `timeout` seconds; whether it is."""
        return bool(select.select([self._parent, self._wakeup], [], [], timeout)[0])


@dataclass(frozen=True)
class Child:
    """A process that was forked.

    Attributes:
        name: What it is called in the log.
        pid: Its process id.
    """

    name: str
    pid: int

    def send(self, number: int) -> None:
        """Sends a signal. Until it was waited for, the id is no other process'."""
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """Exit code once it has ended, the negative number of a signal that killed it; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def fork(name: str, body: Body, life: tuple[int, int], closing: Callable[[], None]) -> Child:
    """Forks a child.

    Args:
        name: What it is called.
        body: What it does; returning is exit code 0, an exception goes to the log and is 1.
        life: The pipe that tells it of its parent's end.
        closing: Closes in the child what only the parent is to hold.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # What arrives before the child has its own handlers must not be lost in those of the parent.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        return Child(name, pid)
    _run(name, body, life, closing)


def rename(name: str) -> None:
    """Puts a name on the process, which logging knows as `processName`."""
    multiprocessing.current_process().name = name


def nothing(*_: object) -> None:
    """A handler, so that the signal reaches the wake-up descriptor."""


def _run(name: str, body: Body, life: tuple[int, int], closing: Callable[[], None]) -> NoReturn:
    # Nothing of what the parent left for its own end may happen here, so the process never returns into its frames.
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        os.close(life[1])
        closing()
        rename(name)
        body(Life(life[0]))
        code = 0
    except RecsysError as error:
        logger.error("%s failed: %s", name, error)
    except BaseException:
        logger.exception("%s failed", name)
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
