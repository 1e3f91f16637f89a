"""Why Retrieve does not ask Feast's vector search. When this fails, Feast has mended it: see docs/milvus-qdrant.md."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Float32, Int64

VECTORS = {10: [1.0, 0.0], 20: [0.6, 0.8], 30: [0.0, 1.0]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Three items on Milvus Lite, each with a price that says whose it is."""
    folder = tmp_path_factory.mktemp("documents")
    rows = pd.DataFrame(
        {
            "item_id": list(VECTORS),
            "event_timestamp": pd.Timestamp("2026-01-01", tz="UTC"),
            "vector": list(VECTORS.values()),
            "price": [item * 1000 for item in VECTORS],
        }
    )
    rows.to_parquet(folder / "items.parquet")
    online: dict[str, Any] = {
        "type": "milvus", "path": str(folder / "milvus.db"), "vector_enabled": True, "embedding_dim": 2,
        "index_type": "FLAT", "metric_type": "IP",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's configuration class of Milvus warns about itself
        config = RepoConfig(
            project="documents", provider="local", registry=str(folder / "registry.db"), online_store=online,
            offline_store={"type": "dask"}, entity_key_serialization_version=3,
        )  # fmt: skip
        opened = FeatureStore(config=config)
        item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
        schema = [
            Field(name="item_id", dtype=Int64),
            Field(name="vector", dtype=Array(Float32), vector_index=True, vector_length=2, vector_search_metric="IP"),
            Field(name="price", dtype=Int64),
        ]
        source = FileSource(path=str(folder / "items.parquet"), timestamp_field="event_timestamp")
        opened.apply([item, FeatureView(name="items", entities=[item], ttl=timedelta(0), schema=schema, source=source)])
        opened.write_to_online_store("items", rows)
    return opened


def nearest(store: FeatureStore, query: list[float]) -> dict[str, list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = store.retrieve_online_documents_v2(
            features=["items:price"], query=query, top_k=3, distance_metric="IP"
        )
    found: dict[str, list[Any]] = answer.to_dict()
    return found


def test_the_hits_come_back_with_the_features_of_other_items(store: FeatureStore) -> None:
    """Best first is 30, 20, 10. The ids come in that order and the features in the order of the sorted ids."""
    found = nearest(store, [0.0, 1.0])
    assert found["item_id"] == [30, 20, 10]
    assert found["price"] == [10_000, 20_000, 30_000]


def test_they_are_right_only_where_the_hits_are_sorted_by_key(store: FeatureStore) -> None:
    found = nearest(store, [1.0, 0.0])
    assert (found["item_id"], found["price"]) == ([10, 20, 30], [10_000, 20_000, 30_000])
