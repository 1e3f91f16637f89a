"""Faulty indexes, each of which the contract must refuse, and say why."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from support.faulty_index import Sound, refused

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.contract import ContractViolated, check
from feast_recsys.bundle.index.exact import ExactIndex


class Spoilt:
    """Exact search, but for what a function makes of its answers."""

    def __init__(self, vectors, spoil):
        self._exact, self._spoil = ExactIndex(vectors), spoil
        self.dimension, self.vectors_of = self._exact.dimension, self._exact.vectors_of

    def __len__(self):
        return len(self._exact)

    def search(self, queries, k, allow=None):
        return self._spoil(*self._exact.search(queries, k, allow))


def swapped(rows, scores):
    order = np.arange(rows.shape[1])[::-1]
    return rows[:, order], scores[:, order]


def worst_instead_of_best(rows, scores):
    return rows[:, -max(rows.shape[1] // 2, 1) :], scores[:, -max(rows.shape[1] // 2, 1) :]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows, scores: (rows[:, :-1], scores[:, :-1]), "instead of"),
        (lambda rows, scores: (rows.astype(np.int32), scores), "instead of int64"),
        (lambda rows, scores: (np.where(rows == rows.max(initial=0), -1, rows), scores), "rows from -1"),
        (lambda rows, scores: (np.repeat(rows[:, :1], rows.shape[1], 1), scores), "comes twice"),
        (lambda rows, scores: (rows, scores * np.float32(np.nan)), "not finite"),
        (lambda rows, scores: (rows, scores + np.float32(0.1)), "off its inner product"),
        (swapped, "after a worse one|higher row comes before"),
    ],
)
def test_the_kit_names_what_is_wrong(spoil, message):
    with pytest.raises(ContractViolated, match=message):
        check(lambda vectors: Spoilt(vectors, spoil))


def test_the_kit_misses_items_that_do_not_come_back():
    """An index that knows only every other item keeps to the form, but misses the target."""

    class Half(ExactIndex):
        def search(self, queries, k, allow=None):
            mask = np.ones(len(self), bool) if allow is None else allow.mask
            if min(k, mask.sum()) <= (mask[::2]).sum():
                mask = mask & (np.arange(len(self)) % 2 == 0)
            return super().search(queries, k, Allowed(mask))

    with pytest.raises(ContractViolated, match="of the best items found"):
        check(Half)


def test_the_kit_notices_forbidden_items():
    class Deaf(ExactIndex):
        def search(self, queries, k, allow=None):
            return super().search(queries, k if allow is None else min(k, allow.count))

    with pytest.raises(ContractViolated, match="must not come back"):
        check(Deaf)


class Buffers(Sound):
    """Answers in memory of its own, of which there is one for each shape."""

    def __init__(self, vectors):
        super().__init__(vectors)
        self.buffers = {}

    def search(self, queries, k, allow=None):
        answer = super().search(queries, k, allow)
        buffers = self.buffers.setdefault(answer[0].shape, tuple(np.empty_like(part) for part in answer))
        for buffer, part in zip(buffers, answer, strict=True):
            buffer[:] = part
        return buffers


class BuffersOfOne(Buffers):
    """The same for single queries only."""

    def search(self, queries, k, allow=None):
        return super().search(queries, k, allow) if len(queries) == 1 else self.exact.search(queries, k, allow)


class BuffersOfScores(Buffers):
    """The same for scores only."""

    def search(self, queries, k, allow=None):
        rows, scores = super().search(queries, k, allow)
        return rows.copy(), scores


@pytest.mark.parametrize("index", [Buffers, BuffersOfOne, BuffersOfScores])
def test_an_answer_must_last(index):
    refused(index, "a later search changes an answer that was given before")


class Shared(Sound):
    """Keeps the queries of a search where another thread's search puts its own."""

    def __init__(self, vectors):
        super().__init__(vectors)
        self.turn = threading.Barrier(2)

    def search(self, queries, k, allow=None):
        self.queries = queries
        if threading.current_thread() is not threading.main_thread():
            self.turn.wait(10)
        return super().search(self.queries, k, allow)


def test_searches_must_not_meet():
    refused(Shared, "answered otherwise while other threads search")


class NormalisesItems(Sound):
    def __init__(self, vectors):
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1.0)
        super().__init__(vectors)


def test_item_vectors_are_the_callers():
    refused(NormalisesItems, "the vectors are changed when an index is built")


class NormalisesQueries(Sound):
    def search(self, queries, k, allow=None):
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        return super().search(queries, k, allow)


def test_queries_are_the_callers():
    refused(NormalisesQueries, "off its inner product|a search changes the queries")


class VectorsOnce(Sound):
    def vectors_of(self, rows):
        return super().vectors_of(np.unique(rows)[::-1])


class VectorsOfNone(Sound):
    def vectors_of(self, rows):
        return super().vectors_of(rows) if len(rows) else np.empty((0, 0), np.float32)


class VectorsOfNoneFail(Sound):
    def vectors_of(self, rows):
        return np.stack([super(VectorsOfNoneFail, self).vectors_of(row) for row in rows])


class VectorsInDoublePrecision(Sound):
    def vectors_of(self, rows):
        return super().vectors_of(rows).astype(np.float64)


class VectorsInABuffer(Sound):
    def __init__(self, vectors):
        super().__init__(vectors)
        self.buffer = np.empty((len(vectors) + 3, self.dimension), np.float32)

    def vectors_of(self, rows):
        self.buffer[: len(rows)] = super().vectors_of(rows)
        return self.buffer[: len(rows)]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (VectorsOnce, "does not give the vectors back of 3 rows, 1 different ones, of 1"),
        (VectorsOfNone, "does not give the vectors back of 0 rows"),
        (VectorsOfNoneFail, "vectors_of 0 rows of 0: ValueError: need at least one array to stack"),
        (VectorsInDoublePrecision, "float64 instead of float32"),
        (VectorsInABuffer, "does not give the vectors back of"),
    ],
)
def test_vectors_come_back_row_for_row(index, message):
    refused(index, message)


class ReadsMemory(Sound):
    """Takes the numbers as they lie in memory, whatever the strides say."""

    def search(self, queries, k, allow=None):
        base = queries if queries.base is None or queries.flags.c_contiguous else queries.base
        return super().search(base.ravel()[: queries.size].reshape(queries.shape), k, allow)


class WantsContiguous(Sound):
    def search(self, queries, k, allow=None):
        if not queries.flags.c_contiguous:
            raise ValueError("queries must be C-contiguous")
        return super().search(queries, k, allow)


class WantsWritable(Sound):
    def search(self, queries, k, allow=None):
        queries.flags.writeable = True
        return super().search(queries, k, allow)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (ReadsMemory, "off its inner product"),
        (WantsContiguous, "ValueError: queries must be C-contiguous"),
        (WantsWritable, "ValueError: cannot set WRITEABLE flag to True"),
    ],
)
def test_queries_may_be_read_only_and_lie_anyhow(index, message):
    refused(index, rf"queries read-only and not C-contiguous\): .*{message}")


def test_a_query_alone_gets_the_rows_that_go_with_its_scores():
    class OtherRows(Sound):
        def search(self, queries, k, allow=None):
            rows, scores = super().search(queries, k, allow)
            return (rows[:, ::-1] if len(queries) == 1 else rows), scores

    refused(OtherRows, "off its inner product")


def test_an_error_is_told_with_its_case():
    class Refuses(Sound):
        def search(self, queries, k, allow=None):
            if k > len(self) > 0:
                raise KeyError(k)
            return super().search(queries, k, allow)

    refused(Refuses, "one item, k = 5: KeyError: 5")
