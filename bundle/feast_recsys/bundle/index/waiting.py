"""An index on a server that may be down: its bundle is opened and served all the same, and answers once it is back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from feast_recsys.bundle.errors import IndexUnavailable, RecsysError
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0


class WaitingIndex:
    """Where the server did not answer when it was opened, it is tried again in the background when a search comes.

    No search waits for that: a client may take ten seconds to find out that nobody answers.

    Args:
        connect: Opens it; raises IndexUnavailable where its server does not answer.
        vectors: [n, d] float32, mapped: what it was filled with.
    """

    def __init__(self, connect: Callable[[], Index], vectors: Vectors) -> None:
        self._connect, self._vectors = connect, vectors
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._error: RecsysError | None = None
        self._trying, self._not_before = False, 0.0

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self._vectors.shape[1])

    def __len__(self) -> int:
        return int(self._vectors.shape[0])

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self._vectors.take(rows, axis=0))

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search.

        Raises:
            IndexUnavailable: the server does not answer, or did not a moment ago.
            CorruptArtifact: it answers by now, and what the bundle was published with is not there.
        """
        return self.opened().search(queries, k, allow)

    def opened(self) -> Index:
        """The index itself; raises what `search` does."""
        index = self._index
        if index is None:
            self._try_again()
            error = self._error
            if error is not None:
                raise type(error)(error.message)
            index = self._index
        assert index is not None  # `open_waiting` has tried before anybody could ask
        return index

    def attempt(self) -> None:
        """Opens it now; keeps the error where that fails."""
        try:
            self._index, self._error = self._connect(), None
        except RecsysError as error:
            self._error = error
        finally:
            self._trying, self._not_before = False, time.monotonic() + _PAUSE_SECONDS

    def _try_again(self) -> None:
        with self._lock:
            if self._trying or time.monotonic() < self._not_before:
                return
            self._trying = True
        threading.Thread(target=self.attempt, name="index-opener", daemon=True).start()


def open_waiting(connect: Callable[[], Index], vectors: Vectors) -> WaitingIndex:
    """A WaitingIndex after a first attempt.

    Raises:
        CorruptArtifact: the server answers, and what the bundle was published with is not there.
        InvalidSettings: a client is not installed; names the extra.
    """
    index = WaitingIndex(connect, vectors)
    index.attempt()
    try:
        index.opened()
    except IndexUnavailable as error:
        logger.warning("%s; searches fail until that is mended", error.message)
    return index
