"""What every index must keep to, as checks that any implementation can run, with exact search as the oracle.

    from feast_recsys.bundle.index.contract import check

    check(lambda vectors: MyIndex(vectors))

The index looks for the largest inner product. It is held to the other metrics as a bundle makes it serve them, by
vectors and queries of `reduction`. No test framework is needed. `violation` looks at a single answer, for tests that
generate their own cases.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.by_metric import by_metric, search_vectors
from feast_recsys.bundle.index.contract_cases import ROUNDING, Case, catalogues
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors

__all__ = ["Case", "ContractViolated", "check", "share_found", "violation"]

_Answer = tuple[Rows, Vectors]

_THREADS = 4

# Filters that are asked with one after the other and forgotten: the memory of the first is then taken again.
_FORGOTTEN = 6

_AS_GIVEN, _BACKWARDS = slice(None), slice(None, None, -1)


class ContractViolated(AssertionError):
    """Raised when an index does not do what Index says; the message names the case."""


def check(
    build: Callable[[Vectors], Index], *, recall: float = 0.9, items: int = 1_000, dimension: int = 16, seed: int = 0
) -> None:
    """Holds an index against exact search, in corner cases and among clustered vectors, by every metric.

    Args:
        build: Makes an index of [n, d] float32 vectors; n may be 0.
        recall: Mean share of the best items that it must find in each case, filtered or not.
        items: Size of the larger catalogues; one, of which requests leave out most, is 11 times as large.
        dimension: Width of the vectors of the others; the small ones and that one have 4 numbers.
        seed: Of everything that is random.

    Raises:
        ContractViolated: with the case and what is wrong about it.
    """
    for vectors, cases in catalogues(items, dimension, seed):
        metric = cases[0].metric
        made = search_vectors(vectors, metric)
        before = made.vectors.copy()
        index = by_metric(build(made.vectors), vectors, metric, made.centre)
        if not np.array_equal(made.vectors, before):
            raise ContractViolated(f"{cases[0].name}: the vectors are changed when an index is built")
        _check_items(index, vectors)
        answers = [_check_case(index, case, recall) for case in cases]
        if len(vectors) == items:
            _check_forgotten(index, cases[0])
        _check_threads(index, cases, answers)


def violation(answer: tuple[Rows, Vectors], case: Case) -> str:
    """What is wrong about an answer other than too few of the best items; empty if nothing.

    Rows and scores must have the shapes and types of Index.search, the rows be different, allowed ones, and the scores
    those of the metric in descending order, the lower row first among equals. The filter must be as it was when the
    case was made.
    """
    if case.filter_changed():
        return "a search changes the filter"
    return _wrong(answer, case, _AS_GIVEN)


def share_found(answer: tuple[Rows, Vectors], case: Case) -> float:
    """Mean share of the best items in an answer, in which nothing else is wrong; 1 where nothing may come back.

    An item counts that is as good as the worst of them, whichever of several equal ones came back.
    """
    rows, _ = answer
    if not rows.size:
        return 1.0
    best = np.sort(np.where(case.mask, case.scores, -np.inf), axis=1)[:, -rows.shape[1], None]
    good = np.take_along_axis(case.scores + case.rounding, rows, axis=1) >= best
    return float(good.mean())


def _wrong(answer: _Answer, case: Case, order: slice) -> str:
    """See `violation`; of an answer to the queries in some order."""
    rows, scores = answer
    n = len(case.vectors)
    malformed = _malformed(answer, case, len(case.queries))
    if malformed:
        return malformed
    if not rows.size:
        return ""
    if rows.min() < 0 or rows.max() >= n:
        return f"rows from {rows.min()} to {rows.max()}, where there are {n} items"
    if not case.mask[rows].all():
        return f"row {rows[~case.mask[rows]][0]} must not come back"
    if (np.diff(np.sort(rows, axis=1), axis=1) == 0).any():
        return "a row comes twice"
    if not np.isfinite(scores).all():
        return "a score is not finite"
    exact, rounding = (np.take_along_axis(full[order], rows, axis=1) for full in (case.scores, case.rounding))
    if (np.abs(scores - exact) > rounding).any():
        name = case.metric.replace("_", " ")
        return f"a score is off its {name} by {np.abs(scores - exact).max():g}"
    if (scores[:, 1:] > scores[:, :-1]).any():
        return "a better score comes after a worse one"
    if ((scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] < rows[:, :-1])).any():
        return "among equal scores a higher row comes before a lower one"
    return ""


def _malformed(answer: _Answer, case: Case, queries: int) -> str:
    """What is wrong about the shapes and types of an answer to so many queries."""
    rows, scores = answer
    shape = (queries, min(case.k, int(case.mask.sum())))
    if rows.shape != shape or scores.shape != shape:
        return f"rows {rows.shape} and scores {scores.shape} instead of {shape}"
    if rows.dtype != np.int64 or scores.dtype != np.float32:
        return f"rows of {rows.dtype} and scores of {scores.dtype} instead of int64 and float32"
    return ""


def _check_items(index: Index, vectors: Vectors) -> None:
    n, d = vectors.shape
    if (len(index), index.dimension) != (n, d):
        raise ContractViolated(f"an index of {n} vectors of {d} numbers says {len(index)} and {index.dimension}")
    down = np.arange(n, dtype=np.int64)[::-3]
    asked = [down, np.concatenate([down[:1], down[:2], down]), down[:0]]
    # All are looked at in the end, so that one that a later call overwrites is noticed.
    for rows, found in [(rows, _vectors_of(index, rows)) for rows in asked]:
        what = f"{len(rows)} rows, {len(set(rows.tolist()))} different ones, of {n}"
        if found.dtype != np.float32:
            raise ContractViolated(f"vectors_of gives {found.dtype} instead of float32 for {what}")
        if not np.array_equal(found, vectors[rows]):
            raise ContractViolated(f"vectors_of does not give the vectors back of {what}")


def _vectors_of(index: Index, rows: Rows) -> Vectors:
    try:
        return index.vectors_of(rows)
    except Exception as error:
        what = f"vectors_of {len(rows)} rows of {len(index)}"
        raise ContractViolated(f"{what}: {type(error).__name__}: {error}") from error


def _check_case(index: Index, case: Case, recall: float) -> _Answer:
    """The answer, where nothing is wrong about it."""
    queries = case.queries.copy()
    came, given = _ask(index, case, [queries])
    _refuse(case, violation(given, case))
    if not np.array_equal(queries, case.queries):
        _refuse(case, "a search changes the queries")
    found = share_found(given, case)
    if found < recall:
        _refuse(case, f"{found:.3f} of the best items found, not {recall}")
    answers = [(came, given)]
    single = [case.queries[n : n + 1] for n in range(len(case.queries))] or [case.queries]
    for parts, order, how in (
        ([_awkward(case.queries)[::-1]], _BACKWARDS, " (queries read-only and not C-contiguous)"),
        (single, _AS_GIVEN, " (queries one by one)"),
    ):
        came, copies = _ask(index, case, parts, how)
        _refuse(case, _wrong(copies, case, order), how)
        if not _close(copies[1], given[1][order], case, order):
            _refuse(case, "answered otherwise than before", how)
        answers.append((came, copies))
    for came, copies in answers:
        rows, scores = _joined(came)
        if not (np.array_equal(rows, copies[0]) and np.array_equal(scores, copies[1])):
            _refuse(case, "a later search changes an answer that was given before")
    return given


def _check_forgotten(index: Index, case: Case) -> None:
    """A filter is what passes it, not its place in memory: that is another's when the filter is gone."""
    n, random = len(case.vectors), np.random.default_rng(0)
    kept = Allowed(random.random(n) < 0.5)
    for _ in range(_FORGOTTEN):
        some = random.permutation(n)[: n // 2]
        _ask_once(index, case, Allowed(np.isin(np.arange(n), some)), "another filter that as many items pass")
        _ask_once(index, case, kept.without(some), "the same filter and as many other items excluded")
        # An index may have made a circle of references to them.
        gc.collect(0)


def _ask_once(index: Index, case: Case, allow: Allowed, what: str) -> None:
    once = Case(f"{case.name}, {what}", case.vectors, case.queries[:2], 5, allow, case.metric)
    _refuse(once, violation(_ask(index, once, [once.queries])[1], once))


def _check_threads(index: Index, cases: list[Case], answers: list[_Answer]) -> None:
    """Searches at the same time give what they gave one after the other."""

    def answer(case: Case) -> _Answer:
        return _ask(index, case, [case.queries])[1]

    with ThreadPoolExecutor(_THREADS) as pool:
        together = pool.map(answer, cases * _THREADS)
        for case, found, expected in zip(cases * _THREADS, together, answers * _THREADS, strict=True):
            if not np.array_equal(found[0], expected[0]) or not _close(found[1], expected[1], case, _AS_GIVEN):
                _refuse(case, "answered otherwise while other threads search")


def _ask(index: Index, case: Case, parts: list[Vectors], how: str = "") -> tuple[list[_Answer], _Answer]:
    """Searches for some queries after others: the answers as they came, and copies of each made at once, joined."""
    came, copies = [], []
    for queries in parts:
        try:
            answer = index.search(queries, case.k, case.allow)
        except Exception as error:
            raise ContractViolated(f"{_asked(case, how)}: {type(error).__name__}: {error}") from error
        if len(parts) > 1:
            _refuse(case, _malformed(answer, case, len(queries)), how)
        came.append(answer)
        copies.append((answer[0].copy(), answer[1].copy()))
    return came, _joined(copies)


def _joined(answers: list[_Answer]) -> _Answer:
    return np.concatenate([rows for rows, _ in answers]), np.concatenate([scores for _, scores in answers])


def _refuse(case: Case, wrong: str, how: str = "") -> None:
    if wrong:
        raise ContractViolated(f"{_asked(case, how)}: {wrong}")


def _asked(case: Case, how: str) -> str:
    return f"{case.name}, k = {case.k}{how}"


def _close(scores: Vectors, expected: Vectors, case: Case, order: slice) -> bool:
    """Whether scores are the same but for rounding, which differs where many products are made at once; so may rows."""
    if scores.shape != expected.shape:
        return False
    rounding = case.rounding[order].max(axis=1, initial=0.0, keepdims=True)
    return bool((np.abs(scores - expected) <= rounding + ROUNDING * np.abs(expected)).all())


def _awkward(queries: Vectors) -> Vectors:
    """The same numbers as a caller may have them: in every other column of what must not be written to."""
    wide = np.repeat(queries, 2, axis=1)
    wide.flags.writeable = False
    return wide[:, ::2]
