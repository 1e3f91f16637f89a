"""The parent of all processes of a server: forks workers and warden, replaces those that end, hands signals on.

It imports everything once, so that its children share that memory, and then only waits. It has no gRPC object, no
connection and no thread of its own, or it could not fork again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feast_recsys.bundle.errors import InvalidSettings, RecsysError
from feast_recsys.features.serving_settings import Serving
from feast_recsys.server import warden
from feast_recsys.server.children import STOPPING, Child, Life, fork, nothing
from feast_recsys.server.families import WORKER_RESTARTS, WORKERS
from feast_recsys.server.seat import Seat
from feast_recsys.server.tally import Tally

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""A worker that ends this often before the server ever listened ends the server."""
STEADY_SECONDS = 10.0
"""A process that lived this long is replaced at once; one that did not, after pauses that double."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
OVERDUE_SECONDS = 15.0
"""Beyond the draining; then a worker is killed."""

LISTENING = b"listening"
"""What a worker reports when it does; else the message and field of its InvalidSettings, as JSON."""

Work = Callable[[Seat, int, Life], None]


@dataclass
class _Post:
    """What one child after the other fills."""

    name: str
    child: Child | None = None
    started: float = 0.0
    quick_ends: int = 0
    due: float = 0.0
    report: int | None = None
    listening: bool = False


class Supervisor:
    """Keeps processes running.

    Args:
        serving: How many, and how long they drain.
        bundles: Folder of bundles, for the warden.
        shared: Private folder of this server.
        metrics: Listening socket of the metrics; None for none.
        listening: Called once, when all workers listen.
    """

    def __init__(
        self,
        serving: Serving,
        bundles: Path,
        shared: Path,
        metrics: socket.socket | None,
        listening: Callable[[], None],
    ) -> None:
        self._serving, self._bundles, self._shared, self._metrics = serving, bundles, shared, metrics
        self._listening = listening
        self._announced = self._stopping = False
        self._hurried: int | None = None
        self._overdue = math.inf
        self._posts = [_Post(f"worker-{n}") for n in range(1, serving.workers + 1)]
        self._warden = _Post(warden.NAME)
        self._tally = Tally(shared / "supervisor")
        self._work: Work | None = None
        self._life = self._wakeup = (-1, -1)

    def start(self) -> None:
        """Takes over the signals and forks the warden, which needs nothing of Feast."""
        self._tally.open()
        self._life, self._wakeup = os.pipe(), os.pipe()
        os.set_blocking(self._wakeup[1], False)
        for number in (*STOPPING, signal.SIGCHLD):
            signal.signal(number, nothing)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        self._fork(self._warden)

    def run(self, work: Work) -> int | None:
        """Forks the workers, and lets them drain after SIGTERM or SIGINT.

        Args:
            work: What a worker does: its seat, a descriptor to report on, and what tells it to end.

        Returns:
            None when all have drained; the number of a second signal, which asks for the end at once.

        Raises:
            InvalidSettings: a worker can't listen.
            RecsysError: a worker ended again and again before the server ever listened.
        """
        self._work = work
        while not self._stopping or any(post.child for post in self._posts):
            if self._hurried is not None:
                return self._hurried
            now = time.monotonic()
            for post in (*self._posts, self._warden):
                if post.child is None and not self._stopping and now >= post.due:
                    self._fork(post)
            self._wait()
            self._reap()
        return None

    def close(self) -> None:
        """Ends what still runs: workers at once, the warden when it has tidied up."""
        for post in self._posts:
            if post.child is not None:
                post.child.send(signal.SIGKILL)
                os.waitpid(post.child.pid, 0)
        os.close(self._life[1])
        limit = time.monotonic() + OVERDUE_SECONDS
        while self._warden.child is not None and self._warden.child.ended() is None:
            if time.monotonic() > limit:
                self._warden.child.send(signal.SIGKILL)
            time.sleep(0.01)
        signal.set_wakeup_fd(-1)
        for number in (*STOPPING, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in (self._life[0], *self._wakeup):
            os.close(descriptor)

    def _fork(self, post: _Post) -> None:
        reading, writing = os.pipe()

        def body(life: Life) -> None:
            if post is self._warden:
                os.close(writing)
                warden.watch(self._bundles, self._shared, self._serving.poll_seconds, self._metrics, life)
            elif self._work is not None:
                if self._metrics is not None:
                    self._metrics.close()
                self._work(Seat(self._shared, post.name), writing, life)

        def closing() -> None:
            open_reports = [p.report for p in self._posts if p.report is not None]
            for descriptor in (reading, *self._wakeup, *open_reports):
                os.close(descriptor)

        post.child = fork(post.name, body, self._life, closing)
        os.close(writing)
        post.started, post.report = time.monotonic(), reading
        logger.info("%s is process %d", post.name, post.child.pid)
        self._count()

    def _wait(self) -> None:
        """Until a signal, a report, or the time for something."""
        reports = {p.report: p for p in (*self._posts, self._warden) if p.report is not None}
        moments = [p.due for p in (*self._posts, self._warden) if p.child is None and not self._stopping]
        moments.append(self._overdue)
        soonest = min(moments)
        timeout = max(soonest - time.monotonic(), 0.0) if math.isfinite(soonest) else None
        ready, _, _ = select.select([self._wakeup[0], *reports], [], [], timeout)
        for descriptor in ready:
            if descriptor == self._wakeup[0]:
                for number in os.read(descriptor, 512):
                    if number in STOPPING:
                        self._stop(number)
            else:
                self._hear(reports[descriptor])
        if time.monotonic() >= self._overdue:
            self._kill()

    def _stop(self, number: int) -> None:
        if self._stopping:
            self._hurried = number
            return
        self._stopping = True
        self._overdue = time.monotonic() + self._serving.drain_seconds + OVERDUE_SECONDS
        logger.info("%s: draining for at most %g s", signal.Signals(number).name, self._serving.drain_seconds)
        for post in self._posts:
            if post.child is not None:
                post.child.send(signal.SIGTERM)

    def _kill(self) -> None:
        self._overdue = math.inf
        for post in self._posts:
            if post.child is not None:
                logger.error("%s does not end; it is killed", post.name)
                post.child.send(signal.SIGKILL)

    def _hear(self, post: _Post) -> None:
        """Takes a worker's word: that it listens, or why it can't; nothing once it has ended."""
        assert post.report is not None
        word = os.read(post.report, 65536)
        os.close(post.report)
        post.report = None
        if word == LISTENING:
            post.listening = True
        elif word and not self._announced:
            message, field = json.loads(word)
            raise InvalidSettings(message, field=field)
        if not self._announced and all(p.listening for p in self._posts):
            self._announced = True
            self._listening()

    def _reap(self) -> None:
        for post in (*self._posts, self._warden):
            code = post.child.ended() if post.child is not None else None
            if code is None:
                continue
            if post.report is not None:
                self._hear(post)
            post.child, post.listening = None, False
            if not self._stopping:
                self._replace(post, code)
        self._count()

    def _replace(self, post: _Post, code: int) -> None:
        """Plans the next one."""
        lived = time.monotonic() - post.started
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        post.quick_ends = post.quick_ends + 1 if lived < STEADY_SECONDS else 0
        if not self._announced and post.quick_ends >= ATTEMPTS:
            raise RecsysError(
                f"{post.name} {how} before the server could listen, {ATTEMPTS} times in a row; the log above says why"
            )
        pause = min(FIRST_PAUSE * 2 ** (post.quick_ends - 1), LONGEST_PAUSE) if post.quick_ends else 0.0
        post.due = time.monotonic() + pause
        logger.error("%s %s after %.1f s; another one follows in %.1f s", post.name, how, lived, pause)
        if post is not self._warden:
            self._tally.add(self._tally.at(WORKER_RESTARTS))

    def _count(self) -> None:
        self._tally.at(WORKER_RESTARTS)
        self._tally.set(self._tally.at(WORKERS), sum(post.child is not None for post in self._posts))
