"""Python's garbage collector, kept out of the request path."""

from __future__ import annotations

import gc
import threading

SECONDS = 1.0
"""Between two collections. What calls leave behind is mostly freed without the collector."""


class Collector:
    """Collects in a thread of its own, and looks only at what came after the last `settle`.

    The hundreds of thousands of objects that importing Feast makes live as long as the process; a full collection
    that visits them takes 70 to 170 ms.
    """

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="collector", daemon=True)

    def start(self) -> None:
        """Turns the automatic collections off and begins with those of the thread."""
        gc.disable()
        self._thread.start()

    def settle(self) -> None:
        """Takes everything that is alive now for permanent. Call it when start-up is over.

        After a swap it would be wrong: of what the collector takes for permanent it frees nothing, and each bundle is
        replaced one day.
        """
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """Ends the thread, and has collections happen by themselves again."""
        self._stopping.set()
        self._thread.join()
        gc.enable()
        gc.unfreeze()

    def _repeat(self) -> None:
        while not self._stopping.wait(SECONDS):
            gc.collect()
