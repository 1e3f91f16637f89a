"""Small torch modules of every role, with their signatures and vocabularies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.export import export_model


@dataclass(frozen=True)
class Source:
    """What `export_model` takes."""

    modules: dict[Role, nn.Module]
    signature: Signature
    vocabularies: dict[str, Vocabulary]


class MaskedMean(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width, padding_idx=0)

    def forward(self, rows: Tensor) -> Tensor:  # [B, L] -> [B, width]
        mask = (rows != 0).to(torch.float32).unsqueeze(-1)
        return (self.table(rows) * mask).sum(1) / mask.sum(1).clamp(min=1.0)


class QueryEncoder(nn.Module):
    def __init__(self, items: Vocabulary, genders: Vocabulary) -> None:
        super().__init__()
        self.history = MaskedMean(len(items), 8)
        self.gender = nn.Embedding(len(genders), 4)
        self.out = nn.Linear(8 + 4 + 1, 6)

    def forward(self, history: Tensor, gender: Tensor, age: Tensor) -> Tensor:
        age = (age.to(torch.float32) / 50.0).clamp(-4, 4).unsqueeze(-1)
        x = torch.cat([self.history(history), self.gender(gender), age], dim=-1)
        return nn.functional.normalize(self.out(x), dim=-1)


class ItemEncoder(nn.Module):
    """Takes its inputs as `**` parameters, under names that torch also gives to operators."""

    def __init__(self, items: Vocabulary, genres: Vocabulary) -> None:
        super().__init__()
        self.item = nn.Embedding(len(items), 8)
        self.genres = MaskedMean(len(genres), 4)
        self.out = nn.Linear(8 + 4 + 1, 6)

    def forward(self, **inputs: Tensor) -> Tensor:
        rating = (inputs["linear"] - 3.5).clamp(-5, 5).unsqueeze(-1)
        x = torch.cat([self.item(inputs["embedding"]), self.genres(inputs["cat"]), rating], dim=-1)
        return nn.functional.normalize(self.out(x), dim=-1)


class WideAndDeep(nn.Module):
    """Crosses of user and item, quantiles of numbers, a small tower; user inputs of batch 1 are expanded."""

    def __init__(self, items: Vocabulary, genders: Vocabulary, genres: Vocabulary) -> None:
        super().__init__()
        self.register_buffer("bounds", torch.tensor([1.0, 5.0, 20.0, 80.0]))
        self.genders = len(genders)
        self.wide = nn.Embedding(101, 1)
        self.history = MaskedMean(len(items), 8)
        self.genres = MaskedMean(len(genres), 4)
        self.deep = nn.Sequential(nn.Linear(8 + 4 + 2, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(
        self, history: Tensor, gender: Tensor, genres: Tensor, item: Tensor, count: Tensor, score: Tensor
    ) -> Tensor:
        n = item.shape[0]
        crossed = (item * 1_000_003 + gender.expand(n)) % 101
        quantile = (count.to(torch.float32).unsqueeze(-1) >= self.bounds).sum(-1).to(torch.float32) / 4
        deep = torch.cat(
            [
                self.history(history).expand(n, -1),
                self.genres(genres),
                quantile.unsqueeze(-1),
                score.clamp(-1, 1).unsqueeze(-1),
            ],
            dim=-1,
        )
        return torch.sigmoid(self.wide(crossed).squeeze(-1) + self.deep(deep).squeeze(-1))


ITEMS = Vocabulary(tuple(range(10, 60, 2)))
GENDERS = Vocabulary(("F", "M", "ünbekannt"))
GENRES = Vocabulary(("Action", "Comédie", "Drama", "日本"))
VOCABULARIES = {"items.json": ITEMS, "genders.json": GENDERS, "genres.json": GENRES}

HISTORY = Input("history", "user_history:item_ids", Side.USER, DType.INT64, max_length=5, vocabulary="items.json")
GENDER = Input("gender", "user_profile:gender", Side.USER, DType.STRING, default="", vocabulary="genders.json")
GENRE_LIST = Input(
    "genres", "item_profile:genres", Side.ITEM, DType.STRING, 3, pad="", default="", vocabulary="genres.json"
)
AGE = Input("age", "user_profile:age", Side.USER, DType.INT64, default=30)


def retrieval_source() -> Source:
    torch.manual_seed(1)
    item = (
        Input("embedding", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json"),
        dataclasses.replace(GENRE_LIST, name="cat"),
        Input("linear", "item_popularity:mean_rating", Side.ITEM, DType.FLOAT32, default=3.5),
    )
    signature = Signature(
        "movies_retrieval",
        Stage.RETRIEVAL,
        {
            Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (HISTORY, GENDER, AGE), "query", "retrieval_query"),
            Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, item, "vector", "retrieval_item"),
        },
        dimension=6,
        metadata={"training": {"fingerprint": "abc"}, "metrics": {"recall_at_50": 0.25}},
    )
    modules: dict[Role, nn.Module] = {
        Role.QUERY_ENCODER: QueryEncoder(ITEMS, GENDERS),
        Role.ITEM_ENCODER: ItemEncoder(ITEMS, GENRES),
    }
    return Source(modules, signature, VOCABULARIES)


def ranking_source() -> Source:
    torch.manual_seed(2)
    inputs = (
        HISTORY,
        GENDER,
        GENRE_LIST,
        Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json"),
        Input("count", "item_popularity:rating_count", Side.ITEM, DType.INT64),
        Input("score", "request:retrieval_score", Side.ITEM, DType.FLOAT32, default=0.0),
    )
    graph = Graph(Role.RANKER, inputs, "probability", "ranking")
    signature = Signature("movies_ranking", Stage.RANKING, {Role.RANKER: graph})
    return Source({Role.RANKER: WideAndDeep(ITEMS, GENDERS, GENRES)}, signature, VOCABULARIES)


@dataclass(frozen=True)
class Exported:
    """A source and what became of it."""

    source: Source
    folder: Path
    signature: Signature


def export(source: Source, folder: Path) -> Exported:
    return Exported(source, folder, export_model(source.modules, source.signature, source.vocabularies, folder))
