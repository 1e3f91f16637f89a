"""Whatever is put side by side in whatever order, the divided net gives what PyTorch gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.rankers import ITEM, SCORE, TOWN, VOCABULARIES, ranker, tower
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.inputs import to_torch
from feast_recsys.exporters.split.ranker import split_ranker
from feast_recsys.exporters.split.shapes import session

FREE = Input("free", "product:free", Side.ITEM, DType.FLOAT32)


@dataclass(frozen=True)
class Segment:
    """One thing in a concatenation."""

    kind: str
    width: int


SEGMENTS = st.builds(
    Segment, st.sampled_from(["user", "item", "request", "product", "difference", "both"]), st.integers(1, 5)
)


class Layout(nn.Module):
    """Segments side by side, some of them nested one level deeper, then what `after` says, then a tower."""

    def __init__(self, segments: list[Segment], nested: int, after: str, expand_first: bool) -> None:
        super().__init__()
        self.segments, self.nested, self.after, self.expand_first = segments, nested, after, expand_first
        self.users = nn.ModuleList(nn.Embedding(4, s.width) for s in segments)
        self.items = nn.ModuleList(nn.Embedding(31, s.width) for s in segments)
        width = sum(s.width for s in segments)
        self.register_buffer("mean", torch.linspace(-1, 1, width))
        self.tower = tower(width, 7)

    def forward(self, town: Tensor, item: Tensor, score: Tensor, free: Tensor) -> Tensor:
        n, parts = item.shape[0], []
        for segment, users, items in zip(self.segments, self.users, self.items, strict=True):
            user, own = users(town), items(item)
            if self.expand_first:
                user = user.expand(n, -1)
            asked = (score.clamp(-2, 2) + 0 * free.clamp(-2, 2)).unsqueeze(-1).expand(-1, segment.width)
            parts.append(
                {
                    "user": user.expand(n, -1),
                    "item": own,
                    "request": asked,
                    "product": user * own,
                    "difference": user - own,
                    "both": torch.tanh(user + own),
                }[segment.kind]
            )
        cut = min(self.nested, len(parts))
        x = torch.cat([torch.cat(parts[:cut], -1), *parts[cut:]], -1) if cut else torch.cat(parts, -1)
        if self.after == "standardise":
            x = (x - self.mean) / 2.0
        elif self.after == "relu":
            x = torch.relu(x)
        elif self.after == "unsqueeze":
            x = x.reshape(1, -1, x.shape[-1])
        elif self.after == "square":
            x = x * x
        return torch.sigmoid(self.tower(x)).reshape(-1)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    segments=st.lists(SEGMENTS, min_size=1, max_size=6),
    nested=st.integers(0, 3),
    after=st.sampled_from(["nothing", "standardise", "relu", "unsqueeze", "square"]),
    expand_first=st.booleans(),
    seed=st.integers(0, 3),
)
def test_any_layout_gives_what_pytorch_gives(
    segments: list[Segment], nested: int, after: str, expand_first: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    made = ranker(Layout(segments, nested, after, expand_first), (TOWN, ITEM, SCORE, FREE))
    result = split_ranker(made.model, made.graph, VOCABULARIES, tolerance=1e-5)
    assert "dropped" not in result.metadata
    facts = result.metadata
    if result.split is None:
        assert {s.kind for s in segments} <= {"user", "request"}
        return
    assert facts["flops_per_candidate"]["served"] <= facts["flops_per_candidate"]["whole"]
    models = {name: session(onnx.load_from_string(content)) for name, content in result.files.items()}
    feed = Sampler(made.graph, VOCABULARIES, seed + 50).feed(9, 1)
    given_ = dict(feed)
    for part in (result.split.user, result.split.item):
        if part is not None:
            outputs = models[part.file].run([p.name for p in part.outputs], {n: feed[n] for n in part.inputs})
            given_ |= {p.name: value for p, value in zip(part.outputs, outputs, strict=True)}
    given_[result.split.count or "unused"] = np.array([9])
    cross = models[result.split.cross.file]
    actual = cross.run(["probability"], {node.name: given_[node.name] for node in cross.get_inputs()})[0]
    with torch.no_grad():
        expected = made.module(**to_torch(feed, made.graph, VOCABULARIES)).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)
