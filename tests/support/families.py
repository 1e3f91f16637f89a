"""Every family that knows items by their ids, a recommender each, on the shop's data; and what PyTorch says of now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, Field, FileSource
from feast.types import Array, Float32
from support.feast_repo import TIMESTAMP
from support.shop import Shop, build_shop

from feast_recsys.bundle.columns import DType
from feast_recsys.exporters.export import export_model
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.features.settings import Settings
from feast_recsys.features.training import point_in_time
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import DAY, TrainingData, load_data
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run

# Small and quick; what they learn here is planted so plainly that little will do.
QUICK: dict[str, dict[str, Any]] = {
    "mult_dae": {"latent": 16, "batch": 20, "learning_rate": 0.01, "epochs": 20},
    "mult_vae": {"hidden": [32], "latent": 16, "batch": 20, "learning_rate": 0.01, "epochs": 20},
    "deep_autoencoder": {"layers": [16, 8], "batch": 20, "epochs": 20},
    "als": {"factors": 8, "steps": 3},  # steps of a graph take long to trace
    "bpr": {"factors": 8},
    "ease": {"regularization": 50.0},
    "item_knn": {},
    "popularity": {},
}
RATED = "deep_autoencoder"

# One of them writes its embeddings of products and customers to Feast.
EMBEDDING = "mult_dae"
EMBEDDED = {"vectors": "product_code:code", "user_vectors": "customer_code:code"}


@dataclass(frozen=True)
class Families:
    """A shop whose recommenders are named for their families. Each is trained and exported when first asked for."""

    shop: Shop
    data: Mapping[bool, TrainingData]
    trained: dict[str, Checkpoint] = field(default_factory=dict)

    @property
    def repo(self) -> Repo:
        """With all recommenders."""
        return self.shop.repo

    def data_of(self, recommender: str, **retrieval: Any) -> TrainingData:
        """Training data of a family's recommender, with changes to its settings of retrieval."""
        settings = self.repo.settings.recommenders[recommender]
        changed = settings.retrieval.model_copy(update=retrieval)
        return replace(self.data[recommender == RATED], settings=settings.model_copy(update={"retrieval": changed}))

    def checkpoint(self, family: str) -> Checkpoint:
        """The trained model."""
        if family not in self.trained:
            self.trained[family] = train_family(self.repo, family, data=self.data_of(family), run=Run(seed=3))
        return self.trained[family]

    def exported(self, family: str) -> Path:
        """The folder of the exported model, where the settings look for it."""
        checkpoint = self.checkpoint(family)
        folder = self.repo.resolve(self.repo.settings.models) / checkpoint.signature.name
        if not folder.exists():
            export_model(checkpoint.modules, checkpoint.signature, checkpoint.vocabularies, folder)
        return folder


def build_families(folder: Path) -> Families:
    """The shop, with a recommender for each of QUICK and none else."""
    shop = build_shop(folder, DType.INT64)
    document = shop.repo.settings.model_dump(mode="json", exclude_defaults=True)
    document["interactions"] |= {"label": "stars", "positive_from": 3.0}
    document["serving"] = {"address": "127.0.0.1:0", "store_timeout_ms": 5000}
    document["recommenders"] = {family: _recommender(family) for family in QUICK}
    shop.repo.store.apply([_code_view(shop.repo, folder, entity) for entity in ("product", "customer")])
    repo = replace(open_repo(shop.repo.path), settings=Settings.model_validate(document))
    data = {family == RATED: load_data(repo, family) for family in ("popularity", RATED)}
    return Families(replace(shop, repo=repo), data)


def _code_view(repo: Repo, folder: Path, entity: str) -> FeatureView:
    """A view for the embeddings of an entity, whose source has no rows yet."""
    name, key = f"{entity}_code", repo.store.get_entity(entity).join_key
    (folder / name).mkdir()
    schema = pa.schema({key: pa.int64(), "code": pa.list_(pa.float32()), TIMESTAMP: pa.timestamp("us", "UTC")}.items())
    pq.write_table(schema.empty_table(), folder / name / "schema.parquet")
    return FeatureView(
        name=name,
        entities=[repo.store.get_entity(entity)],
        ttl=timedelta(0),
        schema=[Field(name="code", dtype=Array(Float32))],
        source=FileSource(name=name, path=str(folder / name), timestamp_field=TIMESTAMP),
    )


def _recommender(family: str) -> dict[str, Any]:
    query: dict[str, Any] = {"query": "shop_query"}
    if family == RATED:
        query = {"query": "shop_stars", "ratings": "customer_history:stars"}
    history = "customer_history:product_ids"
    return {
        "retrieval": {
            "family": family, "item": "shop_item", "history": history, "hyperparameters": QUICK[family], **query,
            **(EMBEDDED if family == EMBEDDING else {}),
        },
        "ranking": None, "seen": [history], "candidates": 20, "title": "product_profile:name",
    }  # fmt: skip


def midnight_after(data: TrainingData) -> int:
    """The first midnight after all that happened, in unix seconds."""
    return (int(data.events.times.max()) // DAY + 1) * DAY


def asked_at(
    repo: Repo, data: TrainingData, midnight: int, *, user_key: str, item_key: str
) -> tuple[TrainingData, Queries]:
    """The training data as if every user asked at a midnight after all that happened, with the features of then.

    Args:
        repo: Where the features come from.
        data: Of a recommender.
        midnight: In unix seconds, for instance `midnight_after(data)`.
        user_key, item_key: Join keys.
    """
    users = np.arange(len(data.events.user_ids))

    def joined(key: str, ids: Any, references: Sequence[str], moment: int) -> Any:
        times = pa.array(np.full(len(ids), moment), pa.int64()).cast(pa.timestamp("s", "UTC"))
        return point_in_time(repo, list(references), pa.table({key: pa.array(ids), "event_timestamp": times}))

    later = replace(
        data,
        days=np.array([midnight]),
        state_keys=users * 2**40 + midnight,
        user_columns=joined(user_key, data.events.user_ids, list(data.user_columns), midnight - 1),
        item_columns=joined(item_key, data.events.item_ids, list(data.item_columns), midnight),
    )
    nothing = np.empty(0, np.int64)
    return later, Queries(users, np.full(len(users), midnight), nothing, np.zeros(len(users) + 1, np.int64))
