"""MovieLens 100K for Feast: who rates, what is rated, and what was known about both at every moment."""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Float32, Int64, String

# The ratings are from 1997 and 1998, and nothing here ever expires. With no ttl at all, Feast's
# `materialize-incremental` would look back one year only and find nothing; so the ttl is a century.
CENTURY = timedelta(days=36_500)

user = Entity(
    name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="A member of MovieLens, 1 to 943."
)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64, description="A movie, 1 to 1682.")


def parquet(name: str, path: str, description: str) -> FileSource:
    return FileSource(name=name, path=path, timestamp_field="event_timestamp", description=description)


user_profile = FeatureView(
    name="user_profile",
    description="What a user said about themselves on joining.",
    entities=[user],
    ttl=CENTURY,
    schema=[
        Field(name="age", dtype=Int64, description="Age in years."),
        Field(name="gender", dtype=String, description="F or M."),
        Field(name="occupation", dtype=String, description="One of 21 words, such as student or librarian."),
    ],
    source=parquet("user_profile_file", "data/user_profile.parquet", "One row per user, from before any rating."),
    tags={"recsys/side": "user"},
)

user_history_push = PushSource(
    name="user_history_push",
    description="New histories the moment a user rates something, without waiting for materialization.",
    batch_source=parquet(
        "user_history_file", "data/user_history.parquet", "One row per user and moment with a rating, as of then."
    ),
)

user_history = FeatureView(
    name="user_history",
    description="What a user has rated and liked so far, as of each rating and including it.",
    entities=[user],
    ttl=CENTURY,
    schema=[
        Field(
            name="item_ids",
            dtype=Array(Int64),
            description="The last 50 movies rated 4 or 5, most recent first.",
            tags={"recsys/entity": "item"},
        ),
        Field(name="seen_count", dtype=Int64, description="Movies rated so far."),
        Field(name="liked_count", dtype=Int64, description="Movies rated 4 or 5 so far."),
        Field(name="mean_rating", dtype=Float32, description="Mean of all ratings so far, 1 to 5."),
    ],
    source=user_history_push,
    tags={"recsys/side": "user"},
)

user_seen = FeatureView(
    name="user_seen",
    description="Everything a user has rated so far: what not to recommend again. One row per user and day.",
    entities=[user],
    ttl=CENTURY,
    schema=[
        Field(
            name="item_ids",
            dtype=Array(Int64),
            description="All movies rated, most recent first.",
            tags={"recsys/entity": "item"},
        ),
    ],
    source=parquet("user_seen_file", "data/user_seen.parquet", "One row per user and day with a rating."),
    tags={"recsys/side": "user"},
)

item_profile = FeatureView(
    name="item_profile",
    description="What is printed on the box. Its keys are the catalogue: the movies that can be recommended.",
    entities=[item],
    ttl=CENTURY,
    schema=[
        Field(name="title", dtype=String, description="Title; null for movie 267. Some movies share one."),
        Field(name="release_year", dtype=Int64, description="Year, 1922 to 1998; null where unknown."),
        Field(name="genres", dtype=Array(String), description="Up to 6 of 18 genres; empty where unknown."),
    ],
    source=parquet("item_profile_file", "data/item_profile.parquet", "One row per movie, from before any rating."),
    tags={"recsys/side": "item"},
)

item_popularity = FeatureView(
    name="item_popularity",
    description="How often and how well a movie was rated, as of each midnight (UTC), without the day that begins.",
    entities=[item],
    ttl=CENTURY,
    schema=[
        Field(name="rating_count_30d", dtype=Int64, description="Ratings in the 30 days before midnight."),
        Field(name="like_count_30d", dtype=Int64, description="Ratings of 4 or 5 in the 30 days before midnight."),
        Field(name="rating_count", dtype=Int64, description="All ratings before midnight."),
        Field(name="mean_rating", dtype=Float32, description="Mean of all ratings before midnight, 1 to 5."),
    ],
    source=parquet(
        "item_popularity_file", "data/item_popularity.parquet", "One row per movie and midnight with a change."
    ),
    tags={"recsys/side": "item"},
)

item_vectors = FeatureView(
    name="item_vectors",
    description="What the item encoder made of a movie. Written by `feast-recsys materialize`, empty until then.",
    entities=[item],
    ttl=CENTURY,
    schema=[Field(name="vector", dtype=Array(Float32), description="Item vector of the last materialization.")],
    source=parquet(
        "item_vectors_file", "data/item_vectors.parquet", "One row per movie and materialization, as of its moment."
    ),
    tags={"recsys/side": "item"},
)

retrieval_query = FeatureService(
    name="retrieval_query",
    description="User side of retrieval: input of the query encoder.",
    features=[user_profile, user_history],
    tags={"recsys/stage": "retrieval", "recsys/side": "user"},
)

retrieval_item = FeatureService(
    name="retrieval_item",
    description="Item side of retrieval: input of the item encoder, beside the id of the movie itself.",
    features=[item_profile[["release_year", "genres"]], item_popularity],
    tags={"recsys/stage": "retrieval", "recsys/side": "item"},
)

ranking = FeatureService(
    name="ranking",
    description="Both sides of ranking: input of the ranker, which weighs one user against a few hundred movies.",
    features=[user_profile, user_history, item_profile[["release_year", "genres"]], item_popularity],
    tags={"recsys/stage": "ranking"},
)
