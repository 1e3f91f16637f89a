"""What a thread needs for each search by FAISS, made once: objects of the library cost 10 us each, pointers 1 us."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.library import faiss
from feast_recsys.bundle.index.protocol import Rows, Vectors

_Mask = npt.NDArray[np.bool_]


class Room(NamedTuple):
    """Where FAISS puts what it finds: scores [w] and rows [w], and pointers to them.

    Attributes:
        upper: All scores but the last.
        lower: All scores but the first.
        alike: [w - 1] bool for the comparison of these two.
    """

    scores: Vectors
    rows: Rows
    scores_pointer: Any
    rows_pointer: Any
    upper: Vectors
    lower: Vectors
    alike: _Mask


class Scratch(threading.local):
    """Memory of one index, of which each thread has its own.

    Args:
        width: Numbers of a query as FAISS is asked.
        dimension: Those of them that are the query's own.

    Attributes:
        query: [width] float32.
        own: [dimension] the first of them.
        query_pointer: The same for FAISS.
        parameters: Of a search of inverted lists.
        filtered: Parameters of such a search that goes by the bits of `allow`.
    """

    def __init__(self, width: int, dimension: int) -> None:
        library = faiss()
        self._pointer = library.swig_ptr
        self.query = np.zeros(width, np.float32)
        self.own, self.query_pointer = self.query[:dimension], self._pointer(self.query)
        self.parameters, self.filtered = library.SearchParametersIVF(), library.SearchParametersIVF()
        self._selector = library.IDSelectorBitmap(0, None)
        self.filtered.sel = self._selector
        self._size = 0

    def allow(self, bits: npt.NDArray[np.uint8]) -> None:
        """Sets what `filtered` lets pass; the caller keeps the bits until the search is over."""
        self._selector.n, self._selector.bitmap = len(bits), self._pointer(bits)

    def room(self, size: int) -> Room:
        """Room for so many items. Kept for the next search that finds as many, which writes over it."""
        if size != self._size:
            scores, rows = np.empty(size, np.float32), np.empty(size, np.int64)
            alike = np.empty(max(size - 1, 0), np.bool_)
            pointers = self._pointer(scores), self._pointer(rows)
            self._room, self._size = Room(scores, rows, *pointers, scores[:-1], scores[1:], alike), size
        return self._room
