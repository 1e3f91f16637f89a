"""History and popularity against the slowest program that computes the same."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from movielens import (
    DAY,
    clean_items,
    clean_ratings,
    in_order,
    interactions,
    item_popularity,
    item_profile,
    user_history,
    user_seen,
)

FIRST = 874_724_710  # first rating of the real data: 1997-09-20, after midnight


@st.composite
def rating_tables(draw: st.DrawFn) -> pd.DataFrame:
    """Few users, items and moments: shared moments, shared days, and more days than a window has."""
    pairs = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=24, unique=True))
    quarters = draw(st.lists(st.integers(0, 4 * 70), min_size=len(pairs), max_size=len(pairs)))
    stars = draw(st.lists(st.integers(1, 5), min_size=len(pairs), max_size=len(pairs)))
    return ratings(*((u, i, s, FIRST + q * DAY // 4) for (u, i), q, s in zip(pairs, quarters, stars, strict=True)))


def ratings(*rows: tuple[int, int, float, int]) -> pd.DataFrame:
    """Rows of user, item, rating and unix seconds."""
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    return in_order(table.astype({"rating": "float32"}))


def seconds(row: dict[str, object]) -> int:
    return int(row["event_timestamp"].timestamp())


def until(table: pd.DataFrame, user: int, moment: int) -> list[tuple[int, float]]:
    """(item, rating) of a user up to a moment, that moment included, oldest first."""
    rows = [row for row in table.itertuples() if row.user_id == user and row.timestamp <= moment]
    return [(row.item_id, row.rating) for row in sorted(rows, key=lambda row: (row.timestamp, row.item_id))]


@settings(deadline=None, max_examples=50)
@given(table=rating_tables(), length=st.integers(1, 4))
def test_history_is_as_of_each_moment_and_includes_it(table: pd.DataFrame, length: int) -> None:
    rows = user_history(table, length).to_pylist()
    assert {(row["user_id"], seconds(row)) for row in rows} == set(zip(table.user_id, table.timestamp, strict=True))
    assert len(rows) == len({(row["user_id"], seconds(row)) for row in rows})
    for row in rows:
        past = until(table, row["user_id"], seconds(row))
        liked = [item for item, rating in past if rating >= 4]
        assert row["item_ids"] == liked[::-1][:length]
        assert row["seen_count"] == len(past)
        assert row["liked_count"] == len(liked)
        assert row["mean_rating"] == pytest.approx(sum(rating for _, rating in past) / len(past))


@settings(deadline=None, max_examples=50)
@given(table=rating_tables())
def test_seen_holds_everything_rated_until_the_last_rating_of_the_day(table: pd.DataFrame) -> None:
    rows = user_seen(table).to_pylist()
    last = table.groupby(["user_id", table.timestamp // DAY]).timestamp.max().reset_index(level=0)
    assert [(row["user_id"], seconds(row)) for row in rows] == list(last.itertuples(index=False, name=None))
    for row in rows:
        assert row["item_ids"] == [item for item, _ in until(table, row["user_id"], seconds(row))][::-1]


@settings(deadline=None, max_examples=50)
@given(table=rating_tables(), window=st.sampled_from([1, 7, 30]))
def test_popularity_at_a_midnight_counts_the_days_before_it_and_nothing_after(table: pd.DataFrame, window: int) -> None:
    rows = item_popularity(table, window).to_pylist()
    first, last = (int(table.timestamp.agg(end)) // DAY * DAY for end in ("min", "max"))
    columns = ("rating_count_30d", "like_count_30d", "rating_count", "mean_rating")
    assert all(seconds(row) % DAY == 0 and first < seconds(row) <= last + DAY for row in rows)
    for item in table.item_id.unique():
        own = [row for row in rows if row["item_id"] == item]
        values = [tuple(row[column] for column in columns) for row in own]
        assert all(before != after for before, after in pairwise(values)), "a row without a change"
        for midnight in range(first, last + DAY + 1, DAY):
            before = table[(table.item_id == item) & (table.timestamp < midnight)]
            recent = before[before.timestamp >= midnight - window * DAY]
            found = [value for row, value in zip(own, values, strict=True) if seconds(row) <= midnight]
            if before.empty:
                assert not found
            else:
                likes = int((recent.rating >= 4).sum())
                expected = (len(recent), likes, len(before), before.rating.mean())
                assert found[-1] == pytest.approx(expected)


def test_items_of_one_moment_count_as_rated_in_ascending_order_of_id() -> None:
    same = user_history(ratings((1, 30, 5, FIRST), (1, 10, 5, FIRST), (1, 20, 5, FIRST)))
    assert same.num_rows == 1
    assert same["item_ids"].to_pylist() == [[30, 20, 10]]


def test_a_user_who_likes_nothing_has_an_empty_history_not_a_null() -> None:
    row = user_history(ratings((1, 10, 3, FIRST))).to_pylist()[0]
    assert row["item_ids"] == []
    assert (row["seen_count"], row["liked_count"], row["mean_rating"]) == (1, 0, 3.0)


def test_interactions_are_sorted_by_moment_then_item() -> None:
    table = interactions(ratings((2, 20, 1, FIRST), (1, 30, 2, FIRST - 1), (3, 10, 3, FIRST)))
    assert table["item_id"].to_pylist() == [30, 10, 20]
    assert table["event_timestamp"].to_pylist()[0] == pd.Timestamp(FIRST - 1, unit="s", tz="UTC")


def test_rating_an_item_twice_is_refused() -> None:
    raw = pd.DataFrame({"user_id": ["7", "7"], "item_id": ["9", "9"], "rating": ["1", "2"], "timestamp": ["5", "6"]})
    with pytest.raises(ValueError, match="user 7 rated item 9 more than once"):
        clean_ratings(raw)


def test_the_two_broken_movies_of_the_source() -> None:
    raw = pd.DataFrame(
        {
            "item_id": ["1412", "267", "1"],
            "movie_title": ["Land Before Time III: The Great Giving (1995)", "unkonwn", 'The "Quoted" (1994) Movie'],
            "release_year": ["V", "unkonwn", "1995"],
            "class": ["Animation Children's", "unknown", "Drama"],
        }
    )
    rows = item_profile(clean_items(raw), known_from=FIRST).drop_columns("event_timestamp").to_pylist()
    assert rows == [
        {"item_id": 1, "title": 'The "Quoted" (1994) Movie', "release_year": 1995, "genres": ["Drama"]},
        {"item_id": 267, "title": None, "release_year": None, "genres": []},
        {
            "item_id": 1412,
            "title": "Land Before Time III: The Great Giving",
            "release_year": 1995,
            "genres": ["Animation", "Children's"],
        },
    ]
