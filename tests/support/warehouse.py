"""A small warehouse: a Feast repository with exported models, ready for `materialize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, Float32, Int64, String, UnixTimestamp
from support import graphs
from support.feast_repo import TIMESTAMP, View, at, feast_repo

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Input, Role, Side, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.repo import Repo

DIMENSION = 4
ITEM_KEY = "sku"
TAGS = Vocabulary(("red", "small", "warm"))
AS_OF = datetime(2024, 1, 10, tzinfo=timezone.utc)
VECTORS = "item_vectors:vector"

# Rows of the catalogue: title, price, year, new, tags, sizes. None is null; the last has a row without any value.
ITEMS: dict[str, list[Any]] = {
    "title": ["Hat", "Coat", "Höse", None, "Hat", None],
    "price": [10.0, None, 0.5, 3.0, 3.0, None],
    "year": [1, 2, None, 3, 3, None],
    "new": [True, False, None, True, True, None],
    "tags": [["red"], ["red", "warm"], [], None, ["?", "small", "red", "warm"], None],
    "sizes": [[0.5, 1.5], [], None, [2.0], [2.0], None],
}
N = len(ITEMS["title"])


def item_ids(strings: bool, n: int = N) -> list[Any]:
    """Ids in ascending order; the integers are those that a float64 can't tell apart."""
    return [f"item-{chr(97 + i)}" for i in range(n)] if strings else [2**53 + i for i in range(n)]


def catalogue_rows(ids: Sequence[Any], moment: Any = None, **columns: Sequence[Any]) -> pa.Table:
    """Rows of the catalogue view's source, at 2024-01-01 unless told otherwise."""
    values = {**ITEMS, **columns}
    types = {
        "title": pa.string(),
        "price": pa.float32(),
        "year": pa.int64(),
        "new": pa.bool_(),
        "tags": pa.list_(pa.string()),
        "sizes": pa.list_(pa.float32()),
    }
    arrays: dict[str, Any] = {ITEM_KEY: pa.array(list(ids))}
    arrays |= {name: pa.array(list(values[name])[: len(ids)], kind) for name, kind in types.items()}
    moments = [moment if moment is not None else at(0)] * len(ids)
    arrays[TIMESTAMP] = pa.array(moments, pa.timestamp("us", "UTC"))
    return pa.table(arrays)


def build(
    folder: Path,
    *,
    strings: bool = True,
    redis: str | None = None,
    vectors: str | None = "folder",
    models: bool = True,
    settings: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> Repo:
    """Writes the repository, and by default its exported models too.

    Args:
        folder: Where.
        strings: String ids, or integers beyond 2^53.
        redis: Address of a Redis server; SQLite if None.
        vectors: Source of the item vectors in Feast: "folder", "file", or None for no such view.
        models: Whether to export models.
        settings: Keys of the `recsys` section to add or replace.
        configuration: Keys of `feature_store.yaml` to add or replace.
    """
    ids = item_ids(strings)
    key_type = ValueType.STRING if strings else ValueType.INT64
    id_list = pa.list_(pa.string() if strings else pa.int64())
    sold = pd.DataFrame({ITEM_KEY: ids[:-2], "sold": range(1, N - 1), "last_sold": [at(i + 0.25) for i in range(N - 2)],
                         TIMESTAMP: at(5)})  # fmt: skip
    profile = pd.DataFrame({"member": ["u1", "u2"], "age": [30, 40], TIMESTAMP: at(0)})
    history = pa.table(
        {
            "member": pa.array(["u1"]),
            "item_ids": pa.array([ids[:2]], id_list),
            TIMESTAMP: pa.array([at(0)], pa.timestamp("us", "UTC")),
        }
    )
    features = {"title": String, "price": Float32, "year": Int64, "new": Bool, "tags": Array(String),
                "sizes": Array(Float32)}  # fmt: skip
    views = [
        View("catalogue", "product", features, catalogue_rows(ids)),
        View("popularity", "product", {"sold": Int64, "last_sold": UnixTimestamp}, sold),
        View("profile", "customer", {"age": Int64}, profile),
        View("history", "customer", {"item_ids": Array(String if strings else Int64)}, history),
    ]
    retrieval = {"vectors": VECTORS} if vectors else {}
    section = {
        "bundles": "bundles",
        "models": "models",
        "keep_bundles": 2,
        "recommenders": {
            "things": {"retrieval": retrieval, "seen": ["history:item_ids"], "title": "catalogue:title"},
        },
    }
    repo = feast_repo(
        folder,
        views,
        user="customer",
        item="product",
        user_key="member",
        item_key=ITEM_KEY,
        user_type=ValueType.STRING,
        item_type=key_type,
        services={"query": ["profile:age", "history:item_ids"]},
        redis=redis,
        settings=section | dict(settings or {}),
        configuration=configuration,
    )
    if vectors:
        add_vector_view(repo, folder, vectors, strings)
    if models:
        export_models(folder / "models", strings)
    return repo


def change_settings(folder: Path, settings: Mapping[str, Any], **configuration: Any) -> None:
    """Replaces keys of the `recsys` section, and of the file around it; open the repository again afterwards."""
    path = folder / "feature_store.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8")) | configuration
    document["recsys"] |= dict(settings)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def add_vector_view(repo: Repo, folder: Path, kind: str, strings: bool) -> None:
    """A view for item vectors whose source has no rows yet."""
    types = {ITEM_KEY: pa.string() if strings else pa.int64(), "vector": pa.list_(pa.float32()),
             TIMESTAMP: pa.timestamp("us", "UTC")}  # fmt: skip
    path = folder / "item_vectors" if kind == "folder" else folder / "item_vectors.parquet"
    file = path / "schema.parquet" if kind == "folder" else path
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.schema(types).empty_table(), file)
    product = repo.store.get_entity("product")
    view = FeatureView(
        name="item_vectors",
        entities=[product],
        ttl=timedelta(0),
        schema=[Field(name="vector", dtype=Array(Float32))],
        source=FileSource(name="item_vectors_source", path=str(path), timestamp_field=TIMESTAMP),
    )
    repo.store.apply([view])


def inputs(strings: bool) -> dict[Role, tuple[Input, ...]]:
    """What the models take."""
    id_type = DType.STRING if strings else DType.INT64
    age = Input("age", "profile:age", Side.USER, DType.INT64, default=20)
    liked = Input("liked", "history:item_ids", Side.USER, id_type, 5, id_type.zero, id_type.zero,
                  vocabulary="items.json")  # fmt: skip
    item = Input("item", f"entity:{ITEM_KEY}", Side.ITEM, id_type, default=id_type.zero, vocabulary="items.json")
    year = Input("year", "catalogue:year", Side.ITEM, DType.INT64, default=9)
    price = Input("price", "catalogue:price", Side.ITEM, DType.FLOAT32, default=-1.0)
    tags = Input("tags", "catalogue:tags", Side.ITEM, DType.STRING, 3, "", "", vocabulary="tags.json")
    sold = Input("sold", "popularity:sold", Side.ITEM, DType.FLOAT32)
    score = Input("score", "request:retrieval_score", Side.ITEM, DType.FLOAT32)
    return {
        Role.QUERY_ENCODER: (age, liked),
        Role.ITEM_ENCODER: (item, year, price, tags),
        Role.RANKER: (age, year, tags, sold, score),
    }


def vocabularies(strings: bool) -> dict[str, Vocabulary]:
    """All items but the last are known."""
    return {"items.json": Vocabulary(tuple(item_ids(strings)[:-1])), "tags.json": TAGS}


def export_models(folder: Path, strings: bool, *, seed: int = 0) -> None:
    """Writes `things_retrieval` and `things_ranking`; another seed makes other weights."""
    takes = inputs(strings)
    graphs.export(
        folder / "things_retrieval",
        "things_retrieval",
        Stage.RETRIEVAL,
        {role: takes[role] for role in (Role.QUERY_ENCODER, Role.ITEM_ENCODER)},
        vocabularies(strings),
        dimension=DIMENSION,
        feature_services={Role.QUERY_ENCODER: "query"},
        seed=seed,
    )
    graphs.export(
        folder / "things_ranking", "things_ranking", Stage.RANKING, {Role.RANKER: takes[Role.RANKER]},
        {"tags.json": TAGS}, dimension=DIMENSION, seed=seed,
    )  # fmt: skip


def expected_vectors(strings: bool, *, seed: int = 0, **columns: Sequence[Any]) -> np.ndarray:
    """[N, DIMENSION]: the item vectors, computed row by row in plain Python."""
    values = {**ITEMS, **columns}
    rows = [
        {f"entity:{ITEM_KEY}": item} | {f"catalogue:{name}": values[name][n] for name in ITEMS}
        for n, item in enumerate(item_ids(strings))
    ]
    encoder = inputs(strings)[Role.ITEM_ENCODER]
    return np.stack([graphs.expected(encoder, vocabularies(strings), row, DIMENSION, seed) for row in rows])
