"""From MovieLens 100K to the tables that Feast reads.

Every builder takes and returns plain tables, so that tests can feed it a few invented ratings. Feature rows carry
the moment from which they are known: a point-in-time join at time t sees nothing that happened after t.
"""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

LIKED_FROM = 4.0
"""Smallest rating that counts as a like."""
HISTORY_LENGTH = 50
"""Liked items that `user_history` keeps."""
WINDOW_DAYS = 30
"""Length of the popularity window."""
DAY = 86_400
"""Seconds."""

FOLDER = "recbole/dataset_example/ml-100k/"
UNKNOWN = ("", "unknown", "unkonwn")  # item 267 is spelled like this in the source
TRAILING_YEAR = r"\s*\((\d{4})\)\s*$"

Integers = npt.NDArray[np.int64]

MOMENT = pa.timestamp("us", tz="UTC")
ITEM_VECTORS = pa.schema([("item_id", pa.int64()), ("vector", pa.list_(pa.float32())), ("event_timestamp", MOMENT)])
"""What `data/item_vectors.parquet` holds; materialization writes its rows."""


@dataclass(frozen=True)
class MovieLens:
    """The three tables, cleaned.

    `ratings`: user_id, item_id, timestamp (int64, unix seconds), rating (float32), sorted by (timestamp, item_id).
    `users`: user_id, age (int64), gender, occupation.
    `items`: item_id, title (None if unknown), release_year (Int64, NA if unknown), genres (list of str, may be empty).
    """

    ratings: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame


def read_wheel(wheel: Path) -> MovieLens:
    """Reads the members of the recbole wheel; nothing gets installed."""
    tables = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in ("inter", "user", "item"):
            with archive.open(f"{FOLDER}ml-100k.{name}") as member:
                # Everything as text at first: zip codes have leading zeros, one year is "V", titles contain quotes.
                table = pd.read_csv(
                    member, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8"
                )
            tables[name] = table.rename(columns=lambda column: column.split(":")[0])
    return MovieLens(clean_ratings(tables["inter"]), clean_users(tables["user"]), clean_items(tables["item"]))


def clean_ratings(raw: pd.DataFrame) -> pd.DataFrame:
    """user_id, item_id, rating, timestamp as text to the ratings of `MovieLens`.

    Raises:
        ValueError: a user rated an item twice; the history builders count on one rating each.
    """
    ratings = pd.DataFrame(
        {
            "user_id": raw["user_id"].astype("int64"),
            "item_id": raw["item_id"].astype("int64"),
            "timestamp": raw["timestamp"].astype("int64"),
            "rating": raw["rating"].astype("float32"),
        }
    )
    twice = ratings.duplicated(["user_id", "item_id"])
    if twice.any():
        user, item = ratings.loc[twice.idxmax(), ["user_id", "item_id"]].astype("int64")
        raise ValueError(f"user {user} rated item {item} more than once; keep one rating per user and item")
    return in_order(ratings)


def clean_users(raw: pd.DataFrame) -> pd.DataFrame:
    """The users of `MovieLens`; the zip code stays out."""
    return pd.DataFrame(
        {
            "user_id": raw["user_id"].astype("int64"),
            "age": raw["age"].astype("int64"),
            "gender": raw["gender"],
            "occupation": raw["occupation"],
        }
    ).sort_values("user_id", ignore_index=True)


def clean_items(raw: pd.DataFrame) -> pd.DataFrame:
    """item_id, movie_title, release_year, class as text to the items of `MovieLens`.

    Two rows of the source are broken: item 267 has no title and no year, and item 1412 has its year left in the title
    and the letter V in the year's place. A year is taken from the title where the column holds none.
    """
    year = pd.to_numeric(raw["release_year"], errors="coerce")
    year_in_title = pd.to_numeric(raw["movie_title"].str.extract(TRAILING_YEAR, expand=False), errors="coerce")
    left_in_title = year.isna() & year_in_title.notna()
    title = raw["movie_title"].mask(left_in_title, raw["movie_title"].str.replace(TRAILING_YEAR, "", regex=True))
    return pd.DataFrame(
        {
            "item_id": raw["item_id"].astype("int64"),
            "title": title.astype(object).where(~title.isin(UNKNOWN), None),
            "release_year": year.fillna(year_in_title).astype("Int64"),
            "genres": [[genre for genre in text.split() if genre not in UNKNOWN] for text in raw["class"]],
        }
    ).sort_values("item_id", ignore_index=True)


def in_order(ratings: pd.DataFrame) -> pd.DataFrame:
    """Sorted by (timestamp, item_id): most rows share their second with another one, so ties need a rule."""
    return ratings.sort_values(["timestamp", "item_id", "user_id"], ignore_index=True)


def build(data: MovieLens) -> dict[str, pa.Table]:
    """All tables by file name without its ending."""
    known_from = first_day(data.ratings) - DAY
    return {
        "interactions": interactions(data.ratings),
        "user_profile": user_profile(data.users, known_from),
        "user_history": user_history(data.ratings),
        "user_seen": user_seen(data.ratings),
        "item_profile": item_profile(data.items, known_from),
        "item_popularity": item_popularity(data.ratings),
    }


def interactions(ratings: pd.DataFrame) -> pa.Table:
    """One row per rating: user_id, item_id, rating, event_timestamp."""
    return pa.table(
        {
            "user_id": pa.array(ratings["user_id"], pa.int64()),
            "item_id": pa.array(ratings["item_id"], pa.int64()),
            "rating": pa.array(ratings["rating"], pa.float32()),
            "event_timestamp": moments(ratings["timestamp"]),
        }
    )


def user_profile(users: pd.DataFrame, known_from: int) -> pa.Table:
    """One row per user, known from before the first rating: user_id, age, gender, occupation, event_timestamp."""
    return pa.table(
        {
            "user_id": pa.array(users["user_id"], pa.int64()),
            "age": pa.array(users["age"], pa.int64()),
            "gender": pa.array(users["gender"], pa.string()),
            "occupation": pa.array(users["occupation"], pa.string()),
            "event_timestamp": moments(np.full(len(users), known_from)),
        }
    )


def item_profile(items: pd.DataFrame, known_from: int) -> pa.Table:
    """One row per item, known from before the first rating: item_id, title, release_year, genres, event_timestamp."""
    return pa.table(
        {
            "item_id": pa.array(items["item_id"], pa.int64()),
            "title": pa.array(items["title"], pa.string()),
            "release_year": pa.array(items["release_year"], pa.int64()),
            "genres": pa.array(items["genres"], pa.list_(pa.string())),
            "event_timestamp": moments(np.full(len(items), known_from)),
        }
    )


def user_history(ratings: pd.DataFrame, length: int = HISTORY_LENGTH) -> pa.Table:
    """One row per user and moment with a rating, as of that moment and including it.

    Columns: user_id, item_ids (the last `length` liked items, most recent first), seen_count, liked_count,
    mean_rating (of everything rated), event_timestamp. Items of one moment count as rated in ascending order of id.
    """
    rows = _by_user(ratings)
    user, rating = rows["user_id"].to_numpy(), rows["rating"].to_numpy(np.float64)
    liked = rating >= LIKED_FROM
    last = _last_of([user, rows["timestamp"].to_numpy()])
    first = np.searchsorted(user, user[last])  # first row of the same user
    seen_count = last - first + 1
    likes_before = np.concatenate([[0], np.cumsum(liked)])
    liked_until, liked_from = likes_before[last + 1], likes_before[first]
    ratings_before = np.concatenate([[0.0], np.cumsum(rating)])
    return pa.table(
        {
            "user_id": pa.array(user[last], pa.int64()),
            "item_ids": _most_recent_first(rows["item_id"].to_numpy()[liked], liked_from, liked_until, length),
            "seen_count": pa.array(seen_count, pa.int64()),
            "liked_count": pa.array(liked_until - liked_from, pa.int64()),
            "mean_rating": pa.array((ratings_before[last + 1] - ratings_before[first]) / seen_count, pa.float32()),
            "event_timestamp": moments(rows["timestamp"].to_numpy()[last]),
        }
    )


def user_seen(ratings: pd.DataFrame) -> pa.Table:
    """One row per user and UTC day with a rating: user_id, item_ids, event_timestamp.

    `item_ids` holds everything rated until then, most recent first. The row is known from the day's last rating on.
    """
    rows = _by_user(ratings)
    user, timestamp = rows["user_id"].to_numpy(), rows["timestamp"].to_numpy()
    last = _last_of([user, timestamp // DAY])
    first = np.searchsorted(user, user[last])
    return pa.table(
        {
            "user_id": pa.array(user[last], pa.int64()),
            "item_ids": _most_recent_first(rows["item_id"].to_numpy(), first, last + 1),
            "event_timestamp": moments(timestamp[last]),
        }
    )


def item_popularity(ratings: pd.DataFrame, window_days: int = WINDOW_DAYS) -> pa.Table:
    """One row per item and midnight (UTC) at which any of its values differs from the midnight before.

    Columns: item_id, rating_count_30d, like_count_30d (over the `window_days` days before that midnight),
    rating_count, mean_rating (over all days before it), event_timestamp. Ratings of the day that starts there are not
    in it. The last midnight is the one after the last rating: windows do not run empty after the data's end.
    """
    items, item = np.unique(ratings["item_id"], return_inverse=True)
    day = ((ratings["timestamp"] - first_day(ratings)) // DAY).to_numpy()
    days = int(day.max()) + 1
    cell = item * days + day

    def until_midnight(weights: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        """[items, days + 1]: sum over all days before the k-th midnight, the 0th being the first day's own."""
        daily = np.bincount(cell, weights, minlength=len(items) * days).reshape(len(items), days)
        return np.pad(np.cumsum(daily, axis=1, dtype=np.float64), ((0, 0), (1, 0)))

    midnight = np.arange(days + 1)
    window_start = np.maximum(midnight - window_days, 0)
    rating = ratings["rating"].to_numpy(np.float64)
    counts, likes = until_midnight(None), until_midnight((rating >= LIKED_FROM).astype(np.float64))
    recent, recent_likes = counts - counts[:, window_start], likes - likes[:, window_start]
    # Mean and likes change only with a rating that enters, or leaves the window: these two see all of them.
    changed = (np.diff(counts, axis=1) > 0) | (np.diff(recent, axis=1) != 0)
    row, column = np.nonzero(changed)
    column += 1
    total = counts[row, column]
    return pa.table(
        {
            "item_id": pa.array(items[row], pa.int64()),
            "rating_count_30d": pa.array(recent[row, column].astype(np.int64)),
            "like_count_30d": pa.array(recent_likes[row, column].astype(np.int64)),
            "rating_count": pa.array(total.astype(np.int64)),
            "mean_rating": pa.array(until_midnight(rating)[row, column] / total, pa.float32()),
            "event_timestamp": moments(first_day(ratings) + column * DAY),
        }
    )


def first_day(ratings: pd.DataFrame) -> int:
    """Midnight (UTC) of the day of the first rating, unix seconds."""
    return int(ratings["timestamp"].min()) // DAY * DAY


def moments(seconds: Integers | pd.Series) -> pa.Array:
    """Unix seconds to UTC timestamps, the one type of every `event_timestamp` here."""
    return pa.array(np.asarray(seconds, dtype=np.int64) * 1_000_000).cast(pa.timestamp("us")).cast(MOMENT)


def _by_user(ratings: pd.DataFrame) -> pd.DataFrame:
    return ratings.sort_values(["user_id", "timestamp", "item_id"], ignore_index=True)


def _last_of(keys: list[Integers]) -> Integers:
    """Positions of the last row of every run of equal keys."""
    ends = np.zeros(len(keys[0]), dtype=bool)
    ends[-1:] = True
    for key in keys:
        ends[:-1] |= key[1:] != key[:-1]
    return np.flatnonzero(ends)


def _most_recent_first(values: Integers, start: Integers, stop: Integers, length: int | None = None) -> pa.ListArray:
    """Row i: `values[start[i]:stop[i]]` backwards, cut to `length`."""
    sizes = stop - start if length is None else np.minimum(stop - start, length)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    step = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    picked = values[np.repeat(stop - 1, sizes) - step]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(picked, pa.int64()))
