"""The split in time and the queries made from it, against brute force over small random logs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.interactions import Interactions
from feast_recsys.models.data.events import Events, Part, split_events
from feast_recsys.models.data.queries import Queries, held_out_queries, horizon_queries, next_item_queries

# Few moments and items, so that ties and repeated items are frequent.
ROW = st.tuples(st.integers(0, 12), st.integers(0, 9), st.integers(0, 2), st.booleans())
LOGS = st.lists(ROW, min_size=1, max_size=70)
Row = tuple[int, int, int, bool]


def interactions(log: list[Row]) -> Interactions:
    """From (time, item, user, liked)."""
    columns = list(zip(*sorted(log), strict=True)) or [(), (), (), ()]
    times, items, users = (np.array(column, np.int64) for column in columns[:3])
    positive = np.array(columns[3], np.bool_)
    return Interactions(10 * users + 1, 10 * items + 5, times, positive.astype(np.float32), positive)


def split(log: list[Row], last: int) -> Events:
    try:
        return split_events(interactions(log), last)
    except InvalidSettings:
        assume(False)
        raise


def moments(events: Events, user: int, part: Part | None = None) -> list[list[tuple[int, int, bool]]]:
    """(time, item, liked) of a user by moment, in order."""
    rows = [
        (int(events.times[n]), int(events.items[n]), bool(events.positive[n]))
        for n in range(len(events))
        if events.users[n] == user and part in (None, events.parts[n])
    ]
    return [list(group) for _, group in groupby(sorted(rows), key=lambda row: row[0])]


def take_whole(chunks: list[list[tuple[int, int, bool]]], count: int) -> int:
    """How many of the first moments hold at least `count` events; all if there are fewer."""
    total = 0
    for n, chunk in enumerate(chunks):
        total += len(chunk)
        if total >= count:
            return n + 1
    return len(chunks)


def as_list(queries: Queries) -> list[tuple[int, int, list[int]]]:
    ends = queries.offsets.tolist()
    return [
        (int(queries.users[q]), int(queries.times[q]), sorted(queries.items[ends[q] : ends[q + 1]].tolist()))
        for q in range(len(queries))
    ]


@settings(deadline=None, max_examples=80)
@given(log=LOGS, last=st.integers(1, 8))
def test_the_test_part_is_the_last_whole_moments_with_k_events_and_validation_those_before(
    log: list[Row], last: int
) -> None:
    events = split(log, last)
    for user in range(len(events.user_ids)):
        chunks = moments(events, user)
        k = min(last, sum(map(len, chunks)) // 4)
        expected = {}
        for part in (Part.TEST, Part.VALIDATION):
            if k and sum(map(len, chunks)) > k:
                held_out = take_whole(chunks[::-1], k)
                expected |= {chunk[0][0]: part for chunk in chunks[-held_out:]}
                chunks = chunks[:-held_out]
        mine = events.users == user
        for time, part in zip(events.times[mine].tolist(), events.parts[mine].tolist(), strict=True):
            assert part == expected.get(time, Part.TRAIN)


@settings(deadline=None, max_examples=80)
@given(log=LOGS, last=st.integers(1, 8))
def test_moments_are_never_torn_apart_and_parts_follow_in_time(log: list[Row], last: int) -> None:
    events = split(log, last)
    parts_at: dict[tuple[int, int], set[int]] = defaultdict(set)
    for user, time, part in zip(events.users.tolist(), events.times.tolist(), events.parts.tolist(), strict=True):
        parts_at[user, time].add(part)
    assert all(len(parts) == 1 for parts in parts_at.values())
    for start, end in zip(events.starts[:-1], events.starts[1:], strict=True):
        assert (np.diff(events.times[start:end]) >= 0).all()
        assert (np.diff(events.parts[start:end].astype(int)) >= 0).all()


def test_without_ties_the_last_k_are_test_and_the_k_before_validation() -> None:
    events = split_events(interactions([(t, t % 10, 0, True) for t in range(50)]), 10)
    assert events.parts.tolist() == [Part.TRAIN] * 30 + [Part.VALIDATION] * 10 + [Part.TEST] * 10


def test_users_with_few_events_give_a_quarter_or_nothing() -> None:
    log = [(t, t, 0, True) for t in range(8)] + [(t, t, 1, True) for t in range(3)]
    events = split_events(interactions(log), 10)
    assert events.parts[events.users == 0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert events.parts[events.users == 1].tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=40)
@given(log=LOGS)
def test_nothing_is_lost_and_ids_are_positions(log: list[Row]) -> None:
    events = split(log, 3)
    users, items = events.user_ids[events.users], events.item_ids[events.items]
    rows = zip(events.times.tolist(), items.tolist(), users.tolist(), events.positive.tolist(), strict=True)
    assert sorted(rows) == sorted((t, 10 * i + 5, 10 * u + 1, liked) for t, i, u, liked in log)
    assert events.starts.tolist() == [int((events.users < u).sum()) for u in range(len(events.user_ids) + 1)]


@settings(deadline=None, max_examples=40)
@given(log=LOGS, time=st.integers(-1, 14))
def test_seen_are_the_items_strictly_before(log: list[Row], time: int) -> None:
    events = split(log, 3)
    for user in range(len(events.user_ids)):
        expected = sorted(item for chunk in moments(events, user) for t, item, _ in chunk if t < time)
        assert sorted(events.seen(user, time).tolist()) == expected


@pytest.mark.parametrize("log", [[], [(1, 2, 0, False), (2, 3, 0, False)]], ids=["no events", "no likes"])
def test_nothing_to_train_on_is_refused(log: list[Row]) -> None:
    with pytest.raises(InvalidSettings, match="no likes to train on"):
        split_events(interactions(log))


@settings(deadline=None, max_examples=80)
@given(log=LOGS, last=st.integers(1, 8), part=st.sampled_from([Part.VALIDATION, Part.TEST]))
def test_held_out_queries_ask_once_for_the_new_likes_of_a_part(log: list[Row], last: int, part: Part) -> None:
    events = split(log, last)
    expected = []
    for user in range(len(events.user_ids)):
        chunks = moments(events, user, part)
        if not chunks:
            continue
        time = chunks[0][0][0]
        met = {item for chunk in moments(events, user) for t, item, _ in chunk if t < time}
        liked = {item for chunk in chunks for _, item, like in chunk if like} - met
        if liked:
            expected.append((user, time, sorted(liked)))
    assert as_list(held_out_queries(events, part)) == expected


@settings(deadline=None, max_examples=80)
@given(log=LOGS, stride=st.integers(1, 5), horizon=st.integers(1, 8))
def test_horizon_queries_look_ahead_over_whole_moments_of_training(log: list[Row], stride: int, horizon: int) -> None:
    events = split(log, 4)
    expected = []
    for user in range(len(events.user_ids)):
        chunks = moments(events, user, Part.TRAIN)
        begin = 0
        while begin < len(chunks):
            ahead = chunks[begin : begin + take_whole(chunks[begin:], horizon)]
            met = {item for chunk in chunks[:begin] for _, item, _ in chunk}
            liked = {item for chunk in ahead for _, item, like in chunk if like} - met
            if liked:
                expected.append((user, chunks[begin][0][0], sorted(liked)))
            begin += take_whole(chunks[begin:], stride)
    assert as_list(horizon_queries(events, stride, horizon)) == expected


@settings(deadline=None, max_examples=40)
@given(log=LOGS)
def test_next_item_queries_are_the_moments_of_training_likes(log: list[Row]) -> None:
    events = split(log, 4)
    expected = []
    for user in range(len(events.user_ids)):
        for chunk in moments(events, user, Part.TRAIN):
            liked = sorted(item for _, item, like in chunk if like)
            if liked:
                expected.append((user, chunk[0][0], liked))
    assert as_list(next_item_queries(events)) == expected


@settings(deadline=None, max_examples=40)
@given(log=LOGS, stride=st.integers(1, 5), horizon=st.integers(1, 8))
def test_queries_up_to_validation_are_those_of_a_log_without_validation(
    log: list[Row], stride: int, horizon: int
) -> None:
    events = split(log, 4)
    merged = replace(events, parts=np.where(events.parts == Part.VALIDATION, Part.TRAIN, events.parts).astype(np.uint8))
    assert as_list(next_item_queries(events, Part.VALIDATION)) == as_list(next_item_queries(merged))
    expected = as_list(horizon_queries(merged, stride, horizon))
    assert as_list(horizon_queries(events, stride, horizon, Part.VALIDATION)) == expected


@settings(deadline=None, max_examples=60)
@given(log=LOGS, last=st.integers(1, 8))
def test_no_label_lies_in_its_own_history_nor_before_its_query(log: list[Row], last: int) -> None:
    events = split(log, last)
    held_out = [held_out_queries(events, part) for part in (Part.VALIDATION, Part.TEST)]
    for queries in (*held_out, horizon_queries(events, 3, last)):
        for user, time, liked in as_list(queries):
            assert liked
            assert not set(liked) & set(events.seen(user, time).tolist())
            later = {item for chunk in moments(events, user) for t, item, like in chunk if t >= time and like}
            assert set(liked) <= later


def test_taken_queries_keep_their_likes() -> None:
    events = split_events(interactions([(t, t % 10, t % 3, t % 2 == 0) for t in range(60)]), 4)
    queries = next_item_queries(events)
    chosen = np.array([5, 0, 5])
    assert as_list(queries.take(chosen)) == [as_list(queries)[q] for q in chosen.tolist()]
    assert queries.rows.tolist() == [q for q, (_, _, liked) in enumerate(as_list(queries)) for _ in liked]
