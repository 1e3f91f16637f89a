"""The models of the benchmark: a 256-128-64 wide & deep ranker, and two towers of width 64. Fixed random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from benchmarks.content import (
    HISTORY,
    HISTORY_LENGTH,
    ITEM_FEATURES,
    ITEM_VIEW,
    RANKING,
    RETRIEVAL,
    USER_FEATURES,
    USER_VIEW,
    Feature,
)  # fmt: skip
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.export import export_model

HIDDEN = (256, 128, 64)
WIDTH = 64
EMBEDDING = 16
CROSS_BUCKETS = 10_007
HISTORY_BUCKETS = 20_011
FARTHEST = 5.0  # numbers are standardised; what lies farther out is cut


class Features(nn.Module):
    """The features of one side, side by side: embeddings of the categories, then the numbers."""

    def __init__(self, features: tuple[Feature, ...]) -> None:
        super().__init__()
        self.categories = [f.name for f in features if f.keys]
        self.numbers = [f.name for f in features if not f.keys]
        self.tables = nn.ModuleDict({f.name: nn.Embedding(f.keys + 1, EMBEDDING) for f in features if f.keys})
        self.wide = nn.ModuleDict({f.name: nn.Embedding(f.keys + 1, 1) for f in features if f.keys})
        self.width = EMBEDDING * len(self.categories) + len(self.numbers)
        self.linear = nn.Linear(len(self.numbers), 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """[B, width] for the deep part and [B, 1] for the wide one."""
        numbers = torch.stack([inputs[name] for name in self.numbers], -1).clamp(-FARTHEST, FARTHEST)
        deep = torch.cat([*(self.tables[name](inputs[name]) for name in self.categories), numbers], -1)
        wide = self.linear(numbers)
        for name in self.categories:
            wide = wide + self.wide[name](inputs[name])
        return deep, wide


class WideDeep(nn.Module):
    """A network over both sides, plus linear terms and one cross of a user's and an item's category."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = Features(USER_FEATURES), Features(ITEM_FEATURES)
        self.cross = nn.Embedding(CROSS_BUCKETS, 1)
        layers: list[nn.Module] = []
        for before, after in zip((self.user.width + self.item.width, *HIDDEN), HIDDEN, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.tower = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1))

    def forward(self, **inputs: Tensor) -> Tensor:
        """Probabilities [N]; user inputs are [1], item inputs [N]."""
        user, user_wide = self.user(inputs)
        item, item_wide = self.item(inputs)
        hidden = self.tower(torch.cat([user.expand(item.shape[0], -1), item], -1))
        bucket = torch.remainder(inputs["segment"] * 1_009 + inputs["category"], CROSS_BUCKETS)
        logits = hidden + user_wide + item_wide + self.cross(bucket)
        return torch.sigmoid(logits.squeeze(-1))


class QueryEncoder(nn.Module):
    """The user's features and the mean of their history, as a vector of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.user = Features(USER_FEATURES)
        self.items = nn.Embedding(HISTORY_BUCKETS, 2 * EMBEDDING)
        self.tower = _tower(self.user.width + 2 * EMBEDDING)

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, WIDTH]."""
        past = inputs[HISTORY]
        mask = (past != 0).to(torch.float32).unsqueeze(-1)
        mean = (self.items(torch.remainder(past, HISTORY_BUCKETS)) * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return _unit(self.tower(torch.cat([self.user(inputs)[0], mean], -1)))


class ItemEncoder(nn.Module):
    """The item's features as a vector of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.item = Features(ITEM_FEATURES)
        self.tower = _tower(self.item.width)

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, WIDTH]."""
        return _unit(self.tower(self.item(inputs)[0]))


def export_models(folder: Path) -> None:
    """Writes both exported models into sub-folders of their names."""
    user, item = _inputs(USER_FEATURES, USER_VIEW, Side.USER), _inputs(ITEM_FEATURES, ITEM_VIEW, Side.ITEM)
    past = Input(HISTORY, f"{USER_VIEW}:{HISTORY}", Side.USER, DType.INT64, HISTORY_LENGTH)
    known = {f"{f.name}.json": Vocabulary(f.vocabulary) for f in (*USER_FEATURES, *ITEM_FEATURES) if f.keys}
    torch.manual_seed(5)
    retrieval = Signature(
        RETRIEVAL,
        Stage.RETRIEVAL,
        {
            Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (*user, past), "vector"),
            Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, item, "vector"),
        },
        dimension=WIDTH,
    )
    modules = {Role.QUERY_ENCODER: QueryEncoder(), Role.ITEM_ENCODER: ItemEncoder()}
    export_model(modules, retrieval, known, folder / RETRIEVAL)
    ranking = Signature(RANKING, Stage.RANKING, {Role.RANKER: Graph(Role.RANKER, (*user, *item), "probability")})
    export_model({Role.RANKER: WideDeep()}, ranking, known, folder / RANKING)


def _inputs(features: tuple[Feature, ...], view: str, side: Side) -> tuple[Input, ...]:
    return tuple(
        Input(f.name, f"{view}:{f.name}", side, DType.INT64, vocabulary=f"{f.name}.json")
        if f.keys
        else Input(f.name, f"{view}:{f.name}", side, DType.FLOAT32, default=0.0)
        for f in features
    )


def _tower(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)
