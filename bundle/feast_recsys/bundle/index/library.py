"""FAISS, imported where an index needs it and not before: it costs a serving process time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType

from feast_recsys.bundle.errors import InvalidSettings


@lru_cache(maxsize=1)
def faiss() -> ModuleType:
    """The library.

    Raises:
        InvalidSettings: it is not installed; names the extra.
    """
    try:
        import faiss as library
    except ImportError as error:
        raise InvalidSettings(
            "this index needs FAISS; install feast-recsys[ann], or choose `index: {kind: exact}`", field="index"
        ) from error
    module: ModuleType = library
    return module


def one_thread() -> None:
    """Keeps FAISS's work for the calling thread in that thread. OpenMP has a number of threads for each."""
    faiss().omp_set_num_threads(1)


@contextmanager
def all_cores() -> Iterator[None]:
    """Lets FAISS build with the cores that the process may use, or with as many threads as OMP_NUM_THREADS says."""
    library = faiss()
    before: int = library.omp_get_max_threads()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    library.omp_set_num_threads(int(wanted) if wanted.isdecimal() else len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        library.omp_set_num_threads(before)
