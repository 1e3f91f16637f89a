"""Imports of a serving process: all of them once, before the workers are forked, and quickly."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from feast_recsys.features.serving_settings import Serving

T = TypeVar("T")

# Each library that NumPy may multiply matrices with reads its own.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_NOT_NEEDED = "torch"


def limit_threads(serving: Serving) -> None:
    """Gives each of several workers one thread for matrices, unless the environment says otherwise.

    Has an effect only before NumPy is imported.
    """
    if serving.workers > 1:
        for name in _THREADS:
            os.environ.setdefault(name, "1")


@contextmanager
def quickly() -> Iterator[None]:
    """Imports Feast in a fifth of the time, for processes that serve and do nothing else.

    Feast imports torch wherever it is installed, to which a server has no use: two seconds and 180 MB. And it has
    typeguard recompile its classes, so that they check their own arguments: six seconds. Both are left out inside.
    """
    import typeguard

    checked, hidden, collecting = typeguard.typechecked, _NOT_NEEDED not in sys.modules, gc.isenabled()
    gc.disable()
    typeguard.typechecked = _unchanged  # type: ignore[assignment]  # its overloads say less than it does
    if hidden:
        sys.modules[_NOT_NEEDED] = None  # type: ignore[assignment]  # as Python documents it: an import of it then fails
    try:
        yield
    finally:
        typeguard.typechecked = checked
        if hidden:
            del sys.modules[_NOT_NEEDED]
        if collecting:
            gc.enable()


def import_server(online_store: object) -> None:
    """Imports what a worker needs, so that all workers share it.

    Args:
        online_store: Configuration of the online store. Feast keeps it in one module with the store, which it would
            import with the first read.
    """
    importlib.import_module("feast_recsys.server.worker")
    importlib.import_module(type(online_store).__module__)


def _unchanged(target: T | None = None, **_: object) -> T | Callable[[T], T]:
    return (lambda later: later) if target is None else target
