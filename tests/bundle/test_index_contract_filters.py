"""Indexes that are wrong about filters and exclusions, each of which the contract must refuse, and say why."""

from __future__ import annotations

import numpy as np
import pytest
from support.faulty_index import Sound, refused

from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.contract import Case, violation
from feast_recsys.bundle.index.exact import ExactIndex


class OpensTheMask(Sound):
    def search(self, queries, k, allow=None):
        if allow is not None:
            allow.mask[:] = True
        return super().search(queries, k)


class OpensTheMaskAfterwards(Sound):
    def search(self, queries, k, allow=None):
        answer = super().search(queries, k, allow)
        if allow is not None:
            allow.mask[:] = True
        return answer


class EmptiesExclusions(Sound):
    def search(self, queries, k, allow=None):
        answer = super().search(queries, k, allow)
        if isinstance(allow, Without):
            allow.excluded[:] = 0
        return answer


class ShiftsRows(Sound):
    """Changes a form of the filter that is kept, not what it was made of."""

    def search(self, queries, k, allow=None):
        answer = super().search(queries, k, allow)
        if allow is not None:
            rows = allow.rows
            rows += 1
        return answer


class ShiftsRowsOfTheBase(Sound):
    def search(self, queries, k, allow=None):
        answer = super().search(queries, k, allow)
        if isinstance(allow, Without) and allow.base is not None:
            rows = allow.base.rows
            rows += 1
        return answer


@pytest.mark.parametrize(
    "index", [OpensTheMask, OpensTheMaskAfterwards, EmptiesExclusions, ShiftsRows, ShiftsRowsOfTheBase]
)
def test_a_filter_is_the_callers(index):
    refused(index, "a search changes the filter")


def test_a_case_remembers_what_was_allowed():
    vectors = np.eye(4, dtype=np.float32)
    case = Case("generated", vectors, vectors[:1], 1, Allowed(np.arange(4) > 1))
    case.allow.mask[:] = True
    assert case.mask.tolist() == [False, False, True, True]
    assert violation(ExactIndex(vectors).search(case.queries, 1, case.allow), case) == "a search changes the filter"


@pytest.mark.parametrize("most", [500, 9_999])
def test_exclusions_count_however_many_they_are(most):
    class Forgetful(Sound):
        def search(self, queries, k, allow=None):
            if isinstance(allow, Without) and len(np.unique(allow.excluded)) > most:
                allow = allow.base
            return super().search(queries, k, allow)

    refused(Forgetful, "11000 items, 10000 excluded, k = 20: row .* must not come back")


def test_a_deeper_search_is_not_enough_where_the_best_are_excluded():
    class Deeper(Sound):
        """Takes what passes of the best few thousand."""

        def search(self, queries, k, allow=None):
            if not isinstance(allow, Without) or len(allow.excluded) < 5_000:
                return super().search(queries, k, allow)
            rows, _ = super().search(queries, 4_096)
            seen = np.zeros(len(self), bool)
            seen[rows] = True
            return super().search(queries, k, Allowed(allow.mask & seen))

    refused(Deeper, "11000 items, the best 10000 excluded, k = 20: rows .* instead of")


class ByPlaceInMemory(Sound):
    """Keeps what passes a filter by its place in memory."""

    def __init__(self, vectors):
        super().__init__(vectors)
        self.masks = {}

    def search(self, queries, k, allow=None):
        if allow is not None:
            allow = Allowed(self.masks.setdefault(id(allow), allow.mask.copy()))
        return super().search(queries, k, allow)


class ExclusionsByPlaceInMemory(ByPlaceInMemory):
    """The same for filters of which something is excluded only."""

    def search(self, queries, k, allow=None):
        if isinstance(allow, Without) and allow.base is not None:
            return super().search(queries, k, allow)
        return self.exact.search(queries, k, allow)


class AnswersByPlaceInMemory(ByPlaceInMemory):
    """Keeps answers by the queries and the place of the filter in memory."""

    def search(self, queries, k, allow=None):
        key = queries.tobytes(), k, id(allow)
        if key not in self.masks:
            self.masks[key] = self.exact.search(queries, k, allow)
        return self.masks[key]


class ByPlaceInMemoryInACircle(ByPlaceInMemory):
    """The same, but a filter lives until references are collected."""

    def search(self, queries, k, allow=None):
        if allow is not None:
            allow.itself = allow
        return super().search(queries, k, allow)


@pytest.mark.parametrize(
    ("index", "what"),
    [
        (ByPlaceInMemory, "another filter|as many other items excluded"),
        (ExclusionsByPlaceInMemory, "as many other items excluded"),
        (AnswersByPlaceInMemory, "another filter|as many other items excluded"),
        (ByPlaceInMemoryInACircle, "another filter|as many other items excluded"),
    ],
)
def test_a_filter_is_not_its_place_in_memory(index, what):
    refused(index, what)
