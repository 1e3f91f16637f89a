"""What a thread needs for each search by FAISS, made once: objects of the library cost 10 us each, pointers 1 us."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.library import faiss
from feast_recsys.bundle.index.protocol import Rows, Vectors


class Scratch(threading.local):
    """Memory of one index, of which each thread has its own.

    Args:
        width: Numbers of a query as FAISS is asked.

    Attributes:
        query: [width] float32.
        query_pointer: The same for FAISS.
        parameters: Of a search of inverted lists.
        filtered: Parameters of such a search that goes by the bits of `allow`.
    """

    def __init__(self, width: int) -> None:
        library = faiss()
        self._pointer = library.swig_ptr
        self.query = np.zeros(width, np.float32)
        self.query_pointer = self._pointer(self.query)
        self.parameters, self.filtered = library.SearchParametersIVF(), library.SearchParametersIVF()
        self._selector = library.IDSelectorBitmap(0, None)
        self.filtered.sel = self._selector
        self._make_room(128)

    def allow(self, bits: npt.NDArray[np.uint8]) -> None:
        """Sets what `filtered` lets pass; the caller keeps the bits until the search is over."""
        self._selector.n, self._selector.bitmap = len(bits), self._pointer(bits)

    def room(self, size: int) -> tuple[Vectors, Rows, Any, Any]:
        """Scores and rows for so many items, at least, with pointers to them. The next search writes over them."""
        if size > len(self._rows):
            self._make_room(size)
        return self._scores, self._rows, self._scores_pointer, self._rows_pointer

    def _make_room(self, size: int) -> None:
        self._scores, self._rows = np.empty(size, np.float32), np.empty(size, np.int64)
        self._scores_pointer, self._rows_pointer = self._pointer(self._scores), self._pointer(self._rows)
