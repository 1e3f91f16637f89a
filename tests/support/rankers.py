"""Rankers of many architectures as ONNX graphs, for whatever takes rankers apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from onnx import ModelProto
from support.torch_modules import MaskedMean
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.inputs import to_torch
from feast_recsys.exporters.lookup import attach_lookups
from feast_recsys.exporters.trace import TRACE_BATCH, trace
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig

ITEMS = Vocabulary(tuple(f"sku{n}" for n in range(30)))
TOWNS = Vocabulary(("Berlin", "Łódź", "東京"))
TAGS = Vocabulary(("new", "sale", "ünlü"))
VOCABULARIES = {"items.json": ITEMS, "towns.json": TOWNS, "tags.json": TAGS}
ROWS = {name: len(vocabulary) for name, vocabulary in VOCABULARIES.items()}

TOWN = Input("town", "customer:town", Side.USER, DType.STRING, default="", vocabulary="towns.json")
AGE = Input("age", "customer:age", Side.USER, DType.FLOAT32, default=30.0)
MEMBER = Input("member", "customer:member", Side.USER, DType.BOOL, default=False)
PAST = Input("past", "customer:past", Side.USER, DType.STRING, 6, "", "", vocabulary="items.json")
HOUR = Input("hour", "request:hour", Side.CONTEXT, DType.INT64, default=12)
ITEM = Input("item", "entity:sku", Side.ITEM, DType.STRING, default="", vocabulary="items.json")
TAG_LIST = Input("tags", "product:tags", Side.ITEM, DType.STRING, 4, "", "", vocabulary="tags.json")
PRICE = Input("price", "product:price", Side.ITEM, DType.FLOAT32, default=9.5)
STOCK = Input("stock", "product:stock", Side.ITEM, DType.INT64)
IS_NEW = Input("is_new", "product:is_new", Side.ITEM, DType.BOOL, default=False)
SCORE = Input("score", "request:retrieval_score", Side.ITEM, DType.FLOAT32)


@dataclass(frozen=True)
class Ranker:
    """A ranker before and after its export."""

    module: nn.Module
    graph: Graph
    model: ModelProto


def ranker(module: nn.Module, inputs: Sequence[Input], vocabularies: Mapping[str, Vocabulary] = VOCABULARIES) -> Ranker:
    graph = Graph(Role.RANKER, tuple(inputs), "probability", file="ranker.onnx")
    module.eval()
    sample = to_torch(Sampler(graph, vocabularies, 0).trace_feed(TRACE_BATCH), graph, vocabularies)
    return Ranker(module, graph, attach_lookups(trace(module, graph, sample), graph, vocabularies, {}))


def small(x: Tensor) -> Tensor:
    """Numbers that no input can make large: [N] to [N, 1]."""
    return (x.to(torch.float32) / 100.0).clamp(-3.0, 3.0).unsqueeze(-1)


def tower(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


class CatFirst(nn.Module):
    """One concatenation of everything, the user repeated for each candidate, then a tower: the usual deep ranker."""

    def __init__(self, width: int = 8, hidden: Sequence[int] = (24, 12)) -> None:
        super().__init__()
        self.town, self.item = nn.Embedding(len(TOWNS), width), nn.Embedding(len(ITEMS), width)
        self.past, self.tags = MaskedMean(len(ITEMS), width), MaskedMean(len(TAGS), width)
        self.register_buffer("mean", torch.linspace(-0.1, 0.1, 4 * width + 3))
        self.tower = tower(4 * width + 3, *hidden)

    def forward(
        self, town: Tensor, age: Tensor, past: Tensor, item: Tensor, tags: Tensor, price: Tensor, score: Tensor
    ) -> Tensor:
        n = item.shape[0]
        user = torch.cat([self.town(town), small(age), self.past(past)], -1).expand(n, -1)
        x = torch.cat([user, self.item(item), small(price), self.tags(tags), small(score)], -1)
        return torch.sigmoid(self.tower((x - self.mean) / 0.5)).squeeze(-1)


class OwnModule(nn.Module):
    """The module of the README."""

    def __init__(self) -> None:
        super().__init__()
        self.job = nn.Embedding(len(TOWNS), 8)
        self.tags = nn.Embedding(len(TAGS), 8, padding_idx=0)
        self.out = nn.Linear(17, 1)

    def forward(self, town: Tensor, tags: Tensor, price: Tensor) -> Tensor:
        mask = (tags != 0).float().unsqueeze(-1)
        mean = (self.tags(tags) * mask).sum(1) / mask.sum(1).clamp(min=1)
        job = self.job(town).expand(tags.shape[0], -1)
        x = torch.cat([job, mean, price.clamp(0, 100).unsqueeze(-1) / 100], dim=-1)
        return torch.sigmoid(self.out(x)).squeeze(-1)


class Dlrm(nn.Module):
    """Embeddings and a dense vector, their pairwise dot products, and a tower over both (Naumov et al. 2019)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.town, self.item = nn.Embedding(len(TOWNS), width), nn.Embedding(len(ITEMS), width)
        self.tags, self.dense = MaskedMean(len(TAGS), width), tower(2, 12)
        self.bottom = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, width))
        rows, columns = torch.triu_indices(4, 4, 1)
        self.register_buffer("pairs", rows * 4 + columns)
        self.top = tower(width + 6, 16)

    def forward(self, town: Tensor, age: Tensor, item: Tensor, tags: Tensor, price: Tensor) -> Tensor:
        n = item.shape[0]
        dense = self.bottom(torch.cat([small(age).expand(n, -1), small(price)], -1))
        x = torch.stack([dense, self.town(town).expand(n, -1), self.item(item), self.tags(tags)], 1)  # [N, 4, d]
        dots = torch.bmm(x, x.transpose(1, 2)).flatten(1)[:, self.pairs]
        return torch.sigmoid(self.top(torch.cat([dense, dots], -1))).squeeze(-1)


class FactorisationMachine(nn.Module):
    """Sum of the dot products of all pairs, as half of (square of the sum - sum of the squares) (Rendle 2010)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.town, self.item = nn.Embedding(len(TOWNS), width), nn.Embedding(len(ITEMS), width)
        self.past, self.tags = MaskedMean(len(ITEMS), width), MaskedMean(len(TAGS), width)

    def forward(self, town: Tensor, past: Tensor, item: Tensor, tags: Tensor) -> Tensor:
        n = item.shape[0]
        user = [self.town(town).expand(n, -1), self.past(past).expand(n, -1)]
        x = torch.stack([*user, self.item(item), self.tags(tags)], 1)  # [N, 4, d]
        pairs = 0.5 * (x.sum(1) ** 2 - (x**2).sum(1)).sum(-1)
        return torch.sigmoid(pairs)


class DeepFm(nn.Module):
    """One table for all fields, indices side by side first; FM and a tower over the same vectors (Guo et al. 2017)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor([0, len(TOWNS)]))
        self.table = nn.Embedding(len(TOWNS) + len(ITEMS), width)
        self.tower = tower(2 * width, 16)

    def forward(self, town: Tensor, item: Tensor) -> Tensor:
        rows = torch.stack([town.expand(item.shape[0]), item], -1) + self.offset  # [N, 2]
        x = self.table(rows)
        pairs = 0.5 * (x.sum(1) ** 2 - (x**2).sum(1)).sum(-1)
        return torch.sigmoid(pairs + self.tower(x.flatten(1)).squeeze(-1))


class Din(nn.Module):
    """Attention of the candidate over the user's history, by a small net over both (Zhou et al. 2018)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.item = nn.Embedding(len(ITEMS), width)
        self.attention = tower(4 * width, 12)
        self.top = tower(2 * width, 12)

    def forward(self, past: Tensor, item: Tensor) -> Tensor:
        n, length = item.shape[0], past.shape[1]
        liked = self.item(past).expand(n, -1, -1)  # [N, L, d]
        candidate = self.item(item).unsqueeze(1).expand(-1, length, -1)
        joint = torch.cat([liked, candidate, liked - candidate, liked * candidate], -1)
        weights = self.attention(joint).squeeze(-1).masked_fill(past == 0, -1e9)
        weights = torch.softmax(weights, -1) * (past != 0).any(-1, keepdim=True)
        pooled = (weights.unsqueeze(-1) * liked).sum(1)
        return torch.sigmoid(self.top(torch.cat([pooled, self.item(item)], -1))).squeeze(-1)


class OnlyRequest(nn.Module):
    """Nothing of the item is in the catalogue."""

    def forward(self, age: Tensor, score: Tensor) -> Tensor:
        return torch.sigmoid(small(score).squeeze(-1) * small(age).squeeze(-1))


class OnlyItem(nn.Module):
    """The user does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.tower = nn.Embedding(len(ITEMS), 8), tower(9, 16)

    def forward(self, age: Tensor, item: Tensor, price: Tensor) -> Tensor:
        return torch.sigmoid(self.tower(torch.cat([self.item(item), small(price)], -1))).squeeze(-1)


class IntsAndBools(nn.Module):
    """Rows and flags, not vectors, go from the item's side to where both meet."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Embedding(97, 1)

    def forward(self, town: Tensor, member: Tensor, item: Tensor, stock: Tensor, is_new: Tensor) -> Tensor:
        crossed = self.wide((item * 1_000_003 + town) % 97).squeeze(-1)
        offered = is_new & (stock.clamp(0, 50) > 3) & member
        return torch.sigmoid(crossed + torch.where(offered, 0.7, -0.2))


def wide_deep() -> Ranker:
    """The ranker that `feast-recsys train` makes, with weights of no zeros."""
    torch.manual_seed(5)
    specs = (TOWN, MEMBER, AGE, PAST, ITEM, SCORE, TAG_LIST, PRICE, IS_NEW)
    knots = {
        s.name: tuple((float(n * step), n / 12) for n in range(13))
        for s, step in ((AGE, 5.0), (SCORE, 0.1), (PRICE, 2.0))
    }
    crosses = (("customer:town", "product:tags"), ("customer:past", "entity:sku"), ("customer:age", "product:price"))
    config = WideDeepConfig(dimension=16, hidden=(16, 8), pools=(1, 3, 6))
    module = WideDeep(specs, ROWS, knots, "item", "past", crosses, (0.3, 0.2), config)
    with torch.no_grad():
        for weight in (p for group in module.wide_parameters() for p in group):
            weight.normal_(0.0, 0.5)
    return ranker(module, specs)


def _of(make: Callable[[], nn.Module], *inputs: Input) -> Callable[[], Ranker]:
    def build() -> Ranker:
        torch.manual_seed(7)
        return ranker(make(), inputs)

    return build


ZOO: Mapping[str, Callable[[], Ranker]] = {
    "wide and deep": wide_deep,
    "own module": _of(OwnModule, TOWN, TAG_LIST, PRICE),
    "cat first": _of(CatFirst, TOWN, AGE, PAST, ITEM, TAG_LIST, PRICE, SCORE),
    "DLRM": _of(Dlrm, TOWN, AGE, ITEM, TAG_LIST, PRICE),
    "FM": _of(FactorisationMachine, TOWN, PAST, ITEM, TAG_LIST),
    "DeepFM": _of(DeepFm, TOWN, ITEM),
    "DIN": _of(Din, PAST, ITEM),
    "only item": _of(OnlyItem, AGE, ITEM, PRICE),
    "ints and bools": _of(IntsAndBools, TOWN, MEMBER, ITEM, STOCK, IS_NEW),
}
