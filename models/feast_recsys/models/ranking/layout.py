"""Where in a ranker's weights an input lies: which rows belong to a key, and which columns to an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from feast_recsys.models.inputs.layers import SideFeatures
from feast_recsys.models.inputs.pieces import PieceFeatures
from feast_recsys.models.ranking.wide_deep import WideDeep

Columns = dict[str, list[int]]
"""By what they belong to: columns of a layer's weight."""


def key_tables(model: WideDeep) -> dict[str, tuple[str, nn.Embedding]]:
    """By name: the vocabulary that numbers a table's rows, and the table."""
    found: dict[str, tuple[str, nn.Embedding]] = {}
    if model.items is not None and model.item_id is not None and model.item_id.vocabulary is not None:
        found["items"] = (model.item_id.vocabulary, model.items)
    if model.history is not None and model.history.spec.vocabulary is not None:
        found["history.table"] = (model.history.spec.vocabulary, model.history.table)
    for side, features in _sides(model).items():
        for spec in features.keyed:
            table = features.tables[spec.name]
            assert isinstance(table, nn.Embedding) and spec.vocabulary is not None
            found[f"{side}.tables.{spec.name}"] = (spec.vocabulary, table)
    return found


def _sides(model: WideDeep) -> dict[str, SideFeatures]:
    return {} if model.parts == "wide" else {"users": model.users, "content": model.content}


def first_layers(model: WideDeep) -> dict[str, tuple[nn.Linear, Columns]]:
    """By name: the layers over inputs, and which of their columns belong to what."""
    if model.parts == "wide":
        return _linear_layer(model)
    users, content = (_columns(features) for features in _sides(model).values())
    liked: list[tuple[str, int]] = []
    match: list[tuple[str, int]] = []
    if model.history is not None:
        d = model.history.table.embedding_dim
        liked = [(f"mean {n}", d) for n in model.history.pools]
        match = [*liked, ("similar", len(model.history.fall))]
    items = [("items", model.items.embedding_dim)] if model.items is not None else []
    found = {"item_entry": (model.item_entry, _segments([*items], content))}
    if model.user_entry is not None:
        found["user_entry"] = (model.user_entry, _segments([], users, liked))
    if model.match_entry is not None:
        found["match_entry"] = (model.match_entry, _segments(match, {}))
    return found | _linear_layer(model)


def _linear_layer(model: WideDeep) -> dict[str, tuple[nn.Linear, Columns]]:
    if model.parts == "deep" or model.linear is None:
        return {}
    if model.scales:
        names = [scale.source for scale in model.scales]
        score = [(f"score {name}", 1) for name in names] if model.score is not None else []
        score += [(f"source {name}", 1) for name in names]
    else:
        score = [("score", 1)] if model.score is not None else []
    similar = [("similar", len(model.history.fall))] if model.history is not None else []
    return {"linear": (model.linear, _segments([*score, *similar], {}))}


def _segments(
    before: Sequence[tuple[str, int]], inside: Mapping[str, list[int]], after: Sequence[tuple[str, int]] = ()
) -> Columns:
    """Columns by what they belong to: some segments, those of `inside`, and some more."""
    columns: dict[str, list[int]] = {}
    start = 0
    for name, width in before:
        columns[name] = list(range(start, start + width))
        start += width
    columns |= {name: [start + column for column in own] for name, own in inside.items()}
    start += sum(len(own) for own in inside.values())
    for name, width in after:
        columns[name] = list(range(start, start + width))
        start += width
    return columns


def _columns(features: SideFeatures) -> Columns:
    """By input: its columns in what `features` gives."""
    columns: dict[str, list[int]] = {}
    start = 0
    for spec in features.keyed:
        width = int(features.tables[spec.name].weight.shape[1])  # type: ignore[index]
        columns[spec.name] = list(range(start, start + width))
        start += width
    for spec in features.vectors:
        columns[spec.name] = list(range(start, start + 8))
        start += 8
    numbers = len(features.numbers)
    for n, spec in enumerate(features.numbers):
        columns[spec.name] = [start + n + power * numbers for power in range(3)]
    start += 3 * numbers
    for spec in features.flags:
        columns[spec.name] = [start]
        start += 1
    if isinstance(features, PieceFeatures) and features.pieces is not None:
        for spec, width in zip(features.in_pieces, features.pieces.pieces, strict=True):
            columns[spec.name] = list(range(start, start + width))
            start += width
    return columns
