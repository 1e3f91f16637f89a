"""Where a ranker's weights start from: the retrieval model's item vectors, or an older ranker's weights.

What Cheng et al. (2016, section 4.2) do for every new model, so that it need not learn all again. Nothing is taken
over by position: rows are matched by their keys, columns by the input they belong to, crosses by their references.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Role
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.ranking.crosses import Cross, KeyRows, Keys, KeyTuples, KeyWeights
from feast_recsys.models.ranking.layout import first_layers, key_tables
from feast_recsys.models.ranking.wide_deep import WideDeep
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.two_tower.towers import ItemEncoder

Vocabularies = Mapping[str, Vocabulary]


@dataclass(frozen=True)
class WarmStart:
    """What a ranker took over from an older one.

    Attributes:
        tables: By name of the table: keys whose vectors were taken over, and keys in all.
        weights: Names of the weights that were taken over, whole or for the inputs that both models have.
        crosses: By references: pairs whose weights were taken over and that are not 0.
        fresh: Names of tables, weights and crosses of which nothing was taken over.
        log_loss: On validation, calibrated, before the first epoch; None until it is measured.
    """

    tables: Mapping[str, tuple[int, int]]
    weights: tuple[str, ...]
    crosses: Mapping[str, int]
    fresh: tuple[str, ...]
    log_loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        document = asdict(self)
        tables = {name: list(counts) for name, counts in self.tables.items()}
        return document | {"tables": tables, "weights": list(self.weights), "fresh": list(self.fresh)}

    def __str__(self) -> str:
        known, keys = (sum(counts[n] for counts in self.tables.values()) for n in (0, 1))
        before = "" if self.log_loss is None else f", log-loss {self.log_loss:.4f} before the first epoch"
        return (
            f"{known} of {keys} vectors, {len(self.weights)} weights, {sum(self.crosses.values())} pairs in "
            f"{len(self.crosses)} crosses{before}"
        )


def start_width(retrieval: Checkpoint) -> int | None:
    """Width of the retrieval model's item table, if it has one that a ranker can start from."""
    encoder = retrieval.modules[Role.ITEM_ENCODER]
    return encoder.items.embedding_dim if isinstance(encoder, ItemEncoder) else None


@torch.no_grad()
def start_from_retrieval(ranker: WideDeep, vocabulary: Vocabulary, retrieval: Checkpoint) -> None:
    """Copies the retrieval model's item vectors for the items that both know.

    Nothing happens without an item table, or where the retrieval model has no table of the ranker's width.
    """
    encoder = retrieval.modules[Role.ITEM_ENCODER]
    if not isinstance(encoder, ItemEncoder) or encoder.item_id.vocabulary is None:
        return
    table = encoder.items.weight.detach()
    if ranker.items is None or table.shape[1] != ranker.items.embedding_dim:
        return
    rows = _row_map(vocabulary, retrieval.vocabularies[encoder.item_id.vocabulary])
    # An item that retrieval doesn't know is like one that the ranker doesn't know.
    known = table[rows] * (rows > 0).unsqueeze(-1)
    ranker.items.weight.copy_(known)
    if ranker.history is not None:
        ranker.history.table.weight.copy_(known)


def require_ranker(older: Checkpoint) -> WideDeep:
    """The ranker of a checkpoint to start from.

    Raises:
        InvalidSettings: it holds no Wide & Deep ranker; names what it holds.
    """
    source = older.modules.get(Role.RANKER)
    if not isinstance(source, WideDeep):
        raise InvalidSettings(
            f"{older.signature.name} is a model of family {older.config['family']} and holds no Wide & Deep ranker to "
            "start from; name the checkpoint of one",
            field="warm_start",
        )
    return source


@torch.no_grad()
def start_from_ranking(ranker: WideDeep, vocabularies: Vocabularies, older: Checkpoint) -> WarmStart:
    """Takes over what an older ranker knows, in place; the rest stays as it is.

    Vectors go by key, also where the vocabularies differ. Weights of a first layer go by input, all other weights
    where the shapes agree. Crosses go by pair of keys where every pair has a weight of its own, and as they are
    where pairs are hashed and both models number their keys alike.

    Args:
        ranker: Freshly built.
        vocabularies: By the names that its inputs give.
        older: A checkpoint of `train_ranking`.

    Raises:
        InvalidSettings: the checkpoint holds no Wide & Deep ranker.
    """
    source = require_ranker(older)
    tables: dict[str, tuple[int, int]] = {}
    weights: list[str] = []
    crosses: dict[str, int] = {}
    fresh: list[str] = []
    theirs_by_name = key_tables(source)
    for name, (file, table) in key_tables(ranker).items():
        their_file, theirs = theirs_by_name.get(name, ("", None))
        if theirs is None or theirs.weight.shape[1] != table.weight.shape[1]:
            fresh.append(name)
            continue
        rows = _row_map(vocabularies[file], older.vocabularies[their_file])
        known = rows > 0
        table.weight[known] = theirs.weight[rows[known]].to(table.weight)
        tables[name] = (int(known.sum()), len(rows) - 1)
    layers, their_layers = first_layers(ranker), first_layers(source)
    for name, (layer, columns) in layers.items():
        their_layer, their_columns = their_layers.get(name, (None, {}))
        taken = their_layer is not None and _take_columns(layer, columns, their_layer, their_columns)
        (weights if taken else fresh).append(f"{name}.weight")
    ours, others = dict(ranker.named_parameters()), dict(source.named_parameters())
    done = {f"{name}.weight" for name in (*key_tables(ranker), *layers)}
    for name, weight in ours.items():
        if name in done or name.startswith("crosses."):
            continue
        same = name in others and others[name].shape == weight.shape
        (weights if same else fresh).append(name)
        if same:
            weight.copy_(others[name])
    by_references = {_references(cross): cross for cross in _crosses(source)}
    for cross in _crosses(ranker):
        label = " x ".join(_references(cross))
        their_cross = by_references.get(_references(cross))
        count = _take_cross(cross, their_cross, vocabularies, older.vocabularies) if their_cross is not None else None
        if count is None:
            fresh.append(label)
        else:
            crosses[label] = count
    return WarmStart(tables, tuple(weights), crosses, tuple(fresh))


def _row_map(ours: Vocabulary, theirs: Vocabulary) -> Tensor:
    """[rows of ours] the other's row of the same key; 0 where it has none."""
    rows = np.zeros(len(ours), np.int64)
    if ours.keys and theirs.keys and ours.dtype is theirs.dtype:
        rows[1:] = theirs.encode(np.array(ours.keys, object))
    return torch.from_numpy(rows)


def _take_columns(
    layer: nn.Linear, columns: Mapping[str, list[int]], other: nn.Linear, others: Mapping[str, list[int]]
) -> bool:
    if layer.out_features != other.out_features:
        return False
    shared = [name for name, own in columns.items() if len(others.get(name, ())) == len(own)]
    for name in shared:
        layer.weight[:, columns[name]] = other.weight[:, others[name]]
    return bool(shared)


def _crosses(model: WideDeep) -> list[Cross | KeyWeights]:
    found = [] if model.parts == "deep" else list(model.crosses)
    return [cross for cross in found if isinstance(cross, (Cross, KeyWeights))]


def _references(cross: Cross | KeyWeights) -> tuple[str, ...]:
    return tuple(part.spec.feature for keys in _keys(cross) for part in _parts(keys))


def _keys(cross: Cross | KeyWeights) -> list[Keys]:
    return [cross.user, cross.item] if isinstance(cross, Cross) else [cross.keys]


def _parts(keys: Keys) -> list[KeyRows]:
    if isinstance(keys, KeyRows):
        return [keys]
    return [part for part in keys.parts if isinstance(part, KeyRows)]


def _take_cross(
    cross: Cross | KeyWeights, other: Cross | KeyWeights, ours: Vocabularies, theirs: Vocabularies
) -> int | None:
    """Copies weights by pairs of keys; how many of them are not 0. None if the pairs can't be told to be the same."""
    maps = [_key_map(a, b, ours, theirs) for a, b in zip(_keys(cross), _keys(other), strict=True)]
    known = [rows for rows in maps if rows is not None]
    if len(known) < len(maps):
        return None
    same = all(torch.equal(rows, torch.arange(len(rows))) for rows in known) and _cells(cross) == _cells(other)
    if isinstance(cross, Cross) and isinstance(other, Cross) and not (cross.exact and other.exact):
        if not same or cross.exact or other.exact or cross.item.rows != other.item.rows:
            return None
        cross.weight.weight.copy_(other.weight.weight)
    else:
        own = cross.weight.weight.view(*(len(rows) for rows in known))
        old = other.weight.weight.view(*(keys.rows for keys in _keys(other)))
        for axis, rows in enumerate(known):
            old = old.index_select(axis, rows)
        present = known[0] > 0 if len(known) == 1 else (known[0] > 0)[:, None] & (known[1] > 0)
        own.copy_(torch.where(present, old, 0.0))
    return int((cross.weight.weight != 0).sum())


def _cells(cross: Cross | KeyWeights) -> int:
    return cross.weight.num_embeddings


def _key_map(keys: Keys, other: Keys, ours: Vocabularies, theirs: Vocabularies) -> Tensor | None:
    """[rows] the other's number of the same key, 0 where it has none; None if they can't be matched."""
    if isinstance(keys, KeyRows) and isinstance(other, KeyRows):
        return _single_map(keys, other, ours, theirs)
    if not (isinstance(keys, KeyTuples) and isinstance(other, KeyTuples)):
        return None
    # Tuples are numbered through all parts, so they agree where every part does.
    for part, their_part in zip(_parts(keys), _parts(other), strict=True):
        rows = _single_map(part, their_part, ours, theirs)
        if rows is None or part.rows != their_part.rows or not torch.equal(rows, torch.arange(len(rows))):
            return None
    return torch.arange(keys.rows) if keys.rows == other.rows and keys.exact == other.exact else None


def _single_map(keys: KeyRows, other: KeyRows, ours: Vocabularies, theirs: Vocabularies) -> Tensor | None:
    mine, other_file = keys.spec.vocabulary, other.spec.vocabulary
    if mine is not None and other_file is not None:
        return _row_map(ours[mine], theirs[other_file])
    if (mine is None) != (other_file is None) or keys.rows != other.rows:
        return None
    bounds, their_bounds = getattr(keys, "bounds", None), getattr(other, "bounds", None)
    if (bounds is None) != (their_bounds is None):
        return None
    if bounds is not None and their_bounds is not None and not torch.equal(bounds, their_bounds):
        return None
    return torch.arange(keys.rows)
