"""How candidates of several sources become one list, whatever the sources have."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.serving_sources import merged

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.merging import Found, merge, shares
from feast_recsys.server.sources import Listing

ROWS = st.lists(st.integers(0, 30), unique=True, max_size=25)
QUOTAS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def found(rows: list[int]) -> Found:
    return Found(np.array(rows, np.int64), np.arange(len(rows), 0, -1, dtype=np.float32))


@given(QUOTAS, st.integers(1, 200))
def test_shares_are_all_of_k_and_no_more_than_one_from_the_exact_part(quotas, k):
    parts, total = shares(quotas, k), sum(quotas)
    assert sum(parts) == (k if total else 0)
    for part, quota in zip(parts, quotas, strict=True):
        assert abs(part - (Fraction(k * quota, total) if total else 0)) < 1


def test_equal_remainders_go_to_the_first():
    assert shares([1, 1, 1], 4) == [2, 1, 1]
    assert shares([60, 15, 15, 10], 20) == [12, 3, 3, 2]
    assert shares([0, 0], 3) == [0, 0]


@given(st.data(), QUOTAS, st.integers(1, 40))
def test_a_list_has_every_item_once_with_its_own_sources_score(data, quotas, k):
    sources = [found(data.draw(ROWS)) for _ in quotas]
    cut = [Found(s.rows[:k], s.scores[:k]) for s in sources]
    fill = data.draw(st.permutations(range(len(quotas))))
    answer = merge(cut, shares(quotas, k), fill, k)
    rows = answer.rows.tolist()
    every = {row for source in sources for row in source.rows.tolist()}
    assert len(rows) == len(set(rows)) == min(k, len(every))
    for row, score, at in zip(rows, answer.scores.tolist(), answer.sources.tolist(), strict=True):
        assert sources[at].scores[sources[at].rows.tolist().index(row)] == score
    if not sum(quotas):
        return
    names = {f"s{n}": source for n, source in enumerate(sources)}
    slow = merged(
        {name: list(zip(map(str, s.rows.tolist()), s.scores.tolist(), strict=True)) for name, s in names.items()},
        dict(zip(names, quotas, strict=True)), k, [f"s{n}" for n in fill],
    )  # fmt: skip
    fast = zip(map(str, rows), answer.scores.tolist(), (f"s{at}" for at in answer.sources.tolist()), strict=True)
    assert list(fast) == slow


@given(ROWS, st.integers(1, 12), st.lists(st.booleans(), min_size=31, max_size=31), st.lists(st.integers(-1, 30)))
def test_a_listing_gives_its_first_that_may_come(rows, k, mask, out):
    listing = Listing(found(rows).rows, found(rows).scores)
    without = np.array(out, np.int64)
    for allow in (None, Allowed(np.array(mask))):
        best = listing.best(k, allow, without)
        wanted = [row for row in rows if row not in out and (allow is None or mask[row])][:k]
        assert best.rows.tolist() == wanted
        assert best.scores.tolist() == [len(rows) - rows.index(row) for row in wanted]
