"""A second Feast repository, nothing like the first: a shop with other entity names, and ids of either type.

Customers buy almost only in their own section of the shop, and like little else, so that a recommender that works is
easy to tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import ValueType
from feast.types import Array, Float32, Int64, String
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.columns import DType
from feast_recsys.features.repo import Repo

SECTIONS = ("bread", "cheese", "tools", "books")
CUSTOMERS, PRODUCTS, PURCHASES, HISTORY = 120, 60, 14, 10


@dataclass(frozen=True)
class Shop:
    """The repository, and what was planted in it."""

    repo: Repo
    folder: Path
    section_of_customer: dict[str, str]
    section_of_product: dict[str, str]
    bought: dict[str, set[str]]


def build_shop(folder: Path, ids: DType, *, redis: str | None = None) -> Shop:
    """Writes and applies the repository, with purchases ready for `train`.

    Args:
        folder: Where.
        ids: STRING for ids such as "c-007", INT64 for numbers.
        redis: Address of a Redis server; SQLite if None.
    """
    rng = np.random.default_rng(7)
    text = ids is DType.STRING
    customers: list[Any] = [f"c-{n:03d}" if text else 10_000 + n for n in range(CUSTOMERS)]
    products: list[Any] = [f"p/{n:02d} ü" if text else 7 * n + 3 for n in range(PRODUCTS)]
    section_of_product = {p: SECTIONS[n % len(SECTIONS)] for n, p in enumerate(products)}
    section_of_customer = {c: SECTIONS[n % len(SECTIONS)] for n, c in enumerate(customers)}
    purchases = _purchases(rng, section_of_customer, section_of_product)
    kind, key = (String, ValueType.STRING) if text else (Int64, ValueType.INT64)
    views = [
        View("customer_profile", "customer", {"town": String, "visits": Int64}, _profiles(rng, customers)),
        View(
            "customer_history",
            "customer",
            {"product_ids": Array(kind), "stars": Array(Float32)},
            _histories(purchases, text),
        ),
        View(
            "product_profile",
            "product",
            {"name": String, "section": String, "price": Float32},
            _products(rng, section_of_product),
        ),
    ]
    repo = feast_repo(
        folder,
        views,
        user="customer",
        item="product",
        user_key="customer_id",
        item_key="sku",
        user_type=key,
        item_type=key,
        redis=redis,
        services={
            "shop_query": ["customer_profile:town", "customer_profile:visits", "customer_history:product_ids"],
            "shop_stars": ["customer_history:product_ids", "customer_history:stars"],
            "shop_item": ["product_profile:section", "product_profile:price"],
            "shop_lists": ["customer_history:product_ids"],
            "shop_prices": ["product_profile:price"],
            "shop_lists_and_prices": ["customer_history:product_ids", "product_profile:price"],
            "shop_ranking": [
                "customer_profile:town",
                "customer_history:product_ids",
                "product_profile:section",
                "product_profile:price",
            ],
        },
        settings={
            "catalogue": "product_profile",
            "interactions": {"path": "purchases.parquet"},
            "recommenders": {
                "shop": {
                    "retrieval": {
                        "query": "shop_query",
                        "item": "shop_item",
                        "history": "customer_history:product_ids",
                    },
                    "ranking": {
                        "features": "shop_ranking",
                        "crosses": [["customer_profile:town", "product_profile:section"]],
                    },
                    "seen": ["customer_history:product_ids"],
                    "title": "product_profile:name",
                    "candidates": 20,
                }
            },
        },
    )
    pq.write_table(pa.Table.from_pandas(purchases, preserve_index=False), folder / "purchases.parquet")
    bought = {str(c): {str(p) for p in rows} for c, rows in purchases.groupby("customer_id")["sku"]}
    return Shop(
        repo,
        folder,
        {str(c): s for c, s in section_of_customer.items()},
        {str(p): s for p, s in section_of_product.items()},
        bought,
    )


def rewrite(folder: Path, **changes: dict[str, Any] | None) -> None:
    """Sets hyperparameters of the shop's stages; None switches the stage off."""
    path = folder / "feature_store.yaml"
    document = yaml.safe_load(path.read_text())
    stages = document["recsys"]["recommenders"]["shop"]
    for stage, hyperparameters in changes.items():
        if hyperparameters is None:
            stages[stage] = None
        else:
            stages[stage]["hyperparameters"] = hyperparameters
    path.write_text(yaml.safe_dump(document))


def _purchases(rng: np.random.Generator, customers: dict[Any, str], products: dict[Any, str]) -> pd.DataFrame:
    rows = []
    for customer, section in customers.items():
        own = [p for p, s in products.items() if s == section]
        other = [p for p, s in products.items() if s != section]
        picked = [*rng.choice(len(own), PURCHASES - 2, replace=False)]
        basket = [own[i] for i in picked] + [other[i] for i in rng.choice(len(other), 2, replace=False)]
        times = np.sort(rng.integers(0, 5_000_000, len(basket)))
        order = rng.permutation(len(basket)).tolist()
        stars = [5.0 - i % 2 if i < PURCHASES - 2 else 1.0 + i % 2 for i in order]
        rows += [(customer, basket[i], s, at(float(t))) for i, s, t in zip(order, stars, times, strict=True)]
    return pd.DataFrame(rows, columns=["customer_id", "sku", "stars", "event_timestamp"])


def _histories(purchases: pd.DataFrame, text: bool) -> pa.Table:
    """The last products at each purchase, that one included, most recent first."""
    customers, lists, stars, times = [], [], [], []
    for customer, rows in purchases.sort_values("event_timestamp").groupby("customer_id"):
        products, given = rows["sku"].tolist(), rows["stars"].tolist()
        for n, moment in enumerate(rows["event_timestamp"]):
            customers.append(customer)
            lists.append(products[max(0, n + 1 - HISTORY) : n + 1][::-1])
            stars.append(given[max(0, n + 1 - HISTORY) : n + 1][::-1])
            times.append(moment)
    kind = pa.string() if text else pa.int64()
    return pa.table(
        {
            "customer_id": pa.array(customers, kind),
            "product_ids": pa.array(lists, pa.list_(kind)),
            "stars": pa.array(stars, pa.list_(pa.float32())),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def _profiles(rng: np.random.Generator, customers: list[Any]) -> pd.DataFrame:
    towns = rng.choice(["Ulm", "Köln", "Kiel"], len(customers)).tolist()
    towns[0] = None
    visits = rng.integers(1, 40, len(customers))
    return pd.DataFrame({"customer_id": customers, "town": towns, "visits": visits, "event_timestamp": at(-10)})


def _products(rng: np.random.Generator, sections: dict[Any, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sku": list(sections),
            "name": [f"{s} no. {n}" for n, s in enumerate(sections.values())],
            "section": list(sections.values()),
            "price": rng.uniform(1, 50, len(sections)).astype(np.float32),
            "event_timestamp": at(-10),
        }
    )
