"""Modules that break a rule of serving, or differ from their graph, are caught and named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_modules import Source, ranking_source, retrieval_source
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSignature, ParityFailed
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.export import export_model

ITEM = Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json")
COUNT = Input("count", "item_stats:count", Side.ITEM, DType.INT64)
RATING = Input("rating", "item_stats:rating", Side.ITEM, DType.FLOAT32, default=0.0)
HISTORY = Input("history", "user_history:item_ids", Side.USER, DType.INT64, 6, vocabulary="items.json")
VOCABULARIES = {"items.json": Vocabulary(tuple(range(100, 140)))}


def _export_ranker(module: nn.Module, inputs: tuple[Input, ...], folder: Path, **options: Any) -> Signature:
    signature = Signature("m", Stage.RANKING, {Role.RANKER: Graph(Role.RANKER, inputs, "score")})
    return export_model({Role.RANKER: module}, signature, VOCABULARIES, folder, **options)


class _Ranker(nn.Module):
    """Subclasses give a logit from an embedded item and whatever else they take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(41, 4)

    def squash(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x.sum(-1))


class _BranchOnSize(_Ranker):
    def forward(self, item: Tensor) -> Tensor:
        x = self.table(item)
        return self.squash(x if item.shape[0] < 10 else x + 0.5)


class _MixesRows(_Ranker):
    def forward(self, item: Tensor) -> Tensor:
        x = self.table(item)
        return self.squash(x - x.mean(0, keepdim=True))


class _MeanOverPadding(_Ranker):
    def forward(self, item: Tensor, history: Tensor) -> Tensor:
        return self.squash(self.table(item) * self.table(history).mean(1))


class _NanOnEmpty(_Ranker):
    def forward(self, item: Tensor, history: Tensor) -> Tensor:
        mask = (history != 0).to(torch.float32).unsqueeze(-1)
        return self.squash(self.table(item) * (self.table(history) * mask).sum(1) / mask.sum(1))


class _NoSigmoid(_Ranker):
    def forward(self, item: Tensor) -> Tensor:
        return self.table(item).sum(-1)


class _Logarithm(_Ranker):
    def forward(self, item: Tensor, rating: Tensor) -> Tensor:
        return self.squash(self.table(item) + torch.log1p(rating).unsqueeze(-1))


class _UnboundedIndex(_Ranker):
    def __init__(self) -> None:
        super().__init__()
        self.counts = nn.Embedding(1000, 4)

    def forward(self, item: Tensor, count: Tensor) -> Tensor:
        return self.squash(self.table(item) + self.counts(count))


@pytest.mark.parametrize(
    ("module", "inputs", "message", "field"),
    [
        (
            _BranchOnSize(),
            (ITEM,),
            r"case 'batch 50 of defaults and empty lists': torch and ONNX differ by 0\.\d+, allowed is 1e-05",
            "ranker",
        ),
        (
            _MixesRows(),
            (ITEM,),
            r"case 'row \d of 7': a row alone must equal .* forward\(\) must not mix rows",
            "ranker",
        ),
        (
            _MeanOverPadding(),
            (ITEM, HISTORY),
            r"case 'user_history:item_ids of 3 padded to 6': forward\(\) must leave out what equals the pad value 0",
            "user_history:item_ids",
        ),
        (
            _NanOnEmpty(),
            (ITEM, HISTORY),
            r"case 'batch 1 of defaults and empty lists': the output is not finite",
            "ranker",
        ),
        (_NoSigmoid(), (ITEM,), r"torch gives -?\d.*, which is no probability; end with a sigmoid", "ranker"),
        (
            _Logarithm(),
            (ITEM, RATING),
            r"case 'item_stats:rating = -1000\.0': the output is not finite; clamp inputs and counts inside",
            "item_stats:rating",
        ),
        (
            _UnboundedIndex(),
            (ITEM, COUNT),
            r"case 'item_stats:count = -1': forward\(\) fails with index out of range.* torch\.where\(\)",
            "item_stats:count",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_rule_of_serving_is_enforced(
    module: nn.Module, inputs: tuple[Input, ...], message: str, field: str, tmp_path: Path
) -> None:
    with pytest.raises(ParityFailed, match=message) as caught:
        _export_ranker(module, inputs, tmp_path / "m")
    assert caught.value.field == field
    assert caught.value.message.startswith("ranker, case '")
    assert list(tmp_path.iterdir()) == []


class _Off(_Ranker):
    """Exports something that differs by a known amount."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off = off

    def forward(self, item: Tensor) -> Tensor:
        p = torch.sigmoid(self.table(item).sum(-1)) / 2
        return p + self.off if torch.onnx.is_in_onnx_export() else p


def test_the_largest_difference_is_measured_and_held_against_the_tolerance(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match=r"differ by 0\.01, allowed is 0\.001"):
        _export_ranker(_Off(0.01), (ITEM,), tmp_path / "m", tolerance=0.001)
    written = _export_ranker(_Off(0.01), (ITEM,), tmp_path / "m", tolerance=0.02)
    parity = written.metadata["parity"]["graphs"]["ranker"]
    assert parity["absolute"] == pytest.approx(0.01, rel=1e-3)
    assert parity["relative"] == pytest.approx(0.01, rel=1e-3)
    assert written.metadata["parity"]["tolerance"] == 0.02


class _WrongDefault(_Ranker):
    """Looks ids up by itself, with the operator's own default of -1: Gather then takes the last row."""

    def forward(self, item: Tensor) -> Tensor:
        keys = list(range(100, 140))
        if torch.onnx.is_in_onnx_export():
            row = torch.onnx.ops.symbolic(
                "ai.onnx.ml::LabelEncoder",
                (item,),
                {"keys_int64s": keys, "values_int64s": list(range(1, 41))},
                dtype=torch.int64,
                shape=item.shape,
                version=3,
            )
        else:
            hit = item.unsqueeze(-1) == torch.tensor(keys)
            row = torch.where(hit.any(-1), hit.to(torch.int64).argmax(-1) + 1, 0)
        return self.squash(self.table(row))


def test_the_lookup_that_answers_unknown_keys_with_the_last_row_is_caught(tmp_path: Path) -> None:
    raw = Input("item", "entity:item_id", Side.ITEM, DType.INT64)
    with pytest.raises(ParityFailed, match="torch and ONNX differ"):
        _export_ranker(_WrongDefault(), (raw,), tmp_path / "m")


class _Steep(_Ranker):
    """Equal in both runtimes except above one bound, which no value of ours happens to pass."""

    def forward(self, item: Tensor, rating: Tensor) -> Tensor:
        p = self.squash(self.table(item)) / 2
        at = (rating == 123.456).to(torch.float32)
        return p + at * 0.25 if torch.onnx.is_in_onnx_export() else p


def test_probes_are_values_that_are_tried_too(tmp_path: Path) -> None:
    _export_ranker(_Steep(), (ITEM, RATING), tmp_path / "m")
    with pytest.raises(ParityFailed, match=r"case 'item_stats:rating = 123\.456': torch and ONNX differ by 0\.25"):
        _export_ranker(_Steep(), (ITEM, RATING), tmp_path / "m", probes={"item_stats:rating": [123.456]})


@pytest.mark.parametrize("feature", ["item_stats:nothing", "entity:item_id"])
def test_probes_of_what_is_no_number_are_refused(feature: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSignature, match=rf"values to try for {feature}, which is no number of m; those are \["):
        _export_ranker(_Steep(), (ITEM, RATING), tmp_path / "m", probes={feature: [1.0]})


class _Vectors(nn.Module):
    """Linear in a number: large values give large vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.unsqueeze(-1))


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, x * x, torch.ones_like(x)], dim=-1)


class _Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_width_that_follows_the_list_is_refused(tmp_path: Path) -> None:
    listed = dataclasses.replace(_number(Side.USER)[0], max_length=2, pad=0.0)
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (listed,), "out"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, _number(Side.ITEM), "out"),
    }
    modules: dict[Role, nn.Module] = {Role.QUERY_ENCODER: _Same(), Role.ITEM_ENCODER: _Square()}
    with pytest.raises(ParityFailed, match=r"torch gives shape \[1, 1\], not \[1, 2\]"):
        export_model(modules, Signature("m", Stage.RETRIEVAL, graphs, 2), {}, tmp_path / "m")


def _number(side: Side) -> tuple[Input, ...]:
    return (Input("x", f"{side.value}:x", side, DType.FLOAT32, default=0.0),)


def test_large_outputs_are_compared_by_their_own_scale(tmp_path: Path) -> None:
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, _number(Side.USER), "out"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, _number(Side.ITEM), "out"),
    }
    modules: dict[Role, nn.Module] = {Role.QUERY_ENCODER: _Vectors(), Role.ITEM_ENCODER: _Square()}
    written = export_model(modules, Signature("m", Stage.RETRIEVAL, graphs, 3), {}, tmp_path / "m")
    parity = written.metadata["parity"]["graphs"]
    assert parity["query_encoder"]["relative"] <= 1e-5
    assert parity["query_encoder"]["overflows"] == []
    assert parity["item_encoder"]["overflows"] == ["item:x"]


@pytest.mark.parametrize("source", [retrieval_source(), ranking_source()], ids=["retrieval", "ranking"])
def test_the_cases_cover_what_was_promised(source: Source) -> None:
    for role, graph in source.signature.graphs.items():
        cases = list(Sampler(graph, source.vocabularies, seed=0).cases())
        names = [case.name for case in cases]
        for batch in (1, 2, 7, 50):
            assert f"batch {batch} of defaults and empty lists" in names
            longest = max(spec.max_length or 0 for spec in graph.inputs)
            for length in (1, 2, longest):
                assert f"batch {batch}, lists of {length}" in names
        for spec in graph.inputs:
            tried = np.concatenate([case.feed[spec.name].reshape(-1) for case in cases]).tolist()
            rows = {case.feed[spec.name].shape[0] for case in cases}
            assert (rows == {1}) is (role is Role.RANKER and spec.side is Side.USER)
            if spec.max_length is not None:
                assert {case.feed[spec.name].shape[1] for case in cases} >= {1, 2, spec.max_length}
            if spec.vocabulary is not None:
                assert set(source.vocabularies[spec.vocabulary].keys) <= set(tried)
            if spec.dtype is DType.STRING:
                assert {"", " ", "ключ", "🎬"} <= set(tried)
            elif spec.dtype is DType.INT64:
                assert {0, -1, 2**31, 2**63 - 1, -(2**63)} <= set(tried)
            elif spec.dtype is DType.FLOAT32:
                finite = np.array(tried)
                assert np.isfinite(finite).all()
                assert finite.max() == np.finfo(np.float32).max
                assert 0 < finite[finite > 0].min() < 1e-30
            if not spec.is_list:
                assert spec.default in tried


def test_the_same_seed_gives_the_same_cases(ranking: Source) -> None:
    graph = ranking.signature.graphs[Role.RANKER]
    first, second, other = (Sampler(graph, ranking.vocabularies, seed).feed(50, 5) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)
