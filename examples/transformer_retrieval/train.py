"""Trains the transformer on a Feast repository by a plain PyTorch loop, and writes what `feast-recsys export` takes.

usage: python train.py REPOSITORY [--out build] [--recommender transformer] [--epochs 30] [--seed 0] ...
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from model import Config, QueryEncoder, build, load, save
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval
from feast_recsys.features.repo import open_repo
from feast_recsys.models.data.events import Part
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.inputs.tensors import ModelTensors, model_tensors
from feast_recsys.models.retrieval.scoring import is_liked, retrieve

# Where the inputs of both encoders come from. A list of ids is padded with 0, which is no movie.
HISTORY = Input("history", "user_history:item_ids", Side.USER, DType.INT64, 50, vocabulary="items.json")
ITEM = Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json")
GENRES = Input("genres", "item_profile:genres", Side.ITEM, DType.STRING, 6, "", "", vocabulary="genres.json")


@dataclass(frozen=True)
class Examples:
    """n lists; most recent first.

    Attributes:
        history: [n, L] rows of items liked before a moment, padded with 0.
        liked: [n] row of the item liked at that moment.
    """

    history: Tensor
    liked: Tensor


def main(arguments: list[str] | None = None) -> None:
    """Trains, measures once on test, and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path, help="folder of the Feast repository")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder to write [%(default)s]")
    parser.add_argument("--recommender", default="transformer", help="its name in the settings [%(default)s]")
    parser.add_argument("--epochs", type=int, default=30, help="at most [%(default)s]")
    parser.add_argument("--patience", type=int, default=4, help="epochs without a better recall [%(default)s]")
    parser.add_argument("--batch", type=int, default=64, help="lists in a batch [%(default)s]")
    parser.add_argument("--stride", type=int, default=20, help="likes between two lists of a user [%(default)s]")
    parser.add_argument("--width", type=int, default=64, help="of vectors and layers [%(default)s]")
    parser.add_argument("--layers", type=int, default=2, help="of the transformer [%(default)s]")
    parser.add_argument("--temperature", type=float, default=0.1, help="of the softmax [%(default)s]")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)

    data = load_data(open_repo(options.repository), options.recommender)
    vocabularies = vocabularies_of(data)
    tensors = model_tensors(data, (HISTORY, ITEM, GENRES), vocabularies)
    rows = {file: len(vocabulary) for file, vocabulary in vocabularies.items()}
    config = Config(rows["items.json"], rows["genres.json"], width=options.width, layers=options.layers)
    encoders = build(config)
    examples = examples_of(data, tensors, vocabularies["items.json"], options.stride)
    adam = torch.optim.AdamW(encoders.parameters(), lr=options.rate, weight_decay=0.01)
    best, best_epoch, k = -1.0, 0, data.settings.candidates
    for epoch in range(1, options.epochs + 1):
        started = time.monotonic()
        loss = train(encoders, examples, catalogue(data, tensors), adam, random, options.batch, options.temperature)
        value = recalls(encoders, tensors, data, data.validation, k).mean
        took = time.monotonic() - started
        print(f"epoch {epoch}: loss {loss:.4f}, validation recall@{k} {value:.4f}, {took:.1f} s", flush=True)
        if value > best:
            best, best_epoch = value, epoch
            save(encoders, config, options.out)
        elif epoch - best_epoch >= options.patience:
            break
    interval = recalls(load(options.out), tensors, data, data.test, k)
    print(f"epoch {best_epoch}: test recall@{k} {interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})")
    write_signature(data, vocabularies, config, options.out)


def train(
    encoders: nn.ModuleDict,
    examples: Examples,
    items: dict[str, Tensor],
    adam: torch.optim.Optimizer,
    random: np.random.Generator,
    batch: int,
    temperature: float,
) -> float:
    """One epoch; the mean loss.

    Cross-entropy of what was liked next, over all items that somebody liked, at every place of every list.
    """
    encoders.train()
    query, tower = encoders["query_encoder"], encoders["item_encoder"]
    assert isinstance(query, QueryEncoder)
    total, count = 0.0, 0
    for rows in np.array_split(random.permutation(len(examples.liked)), max(1, len(examples.liked) // batch)):
        history, liked = examples.history[rows], examples.liked[rows]
        # The state at t stands for the moment before the like at t - 1; at 0 that is the one of the moment itself.
        targets = torch.cat([liked.unsqueeze(1), history[:, :-1]], dim=1)
        # Forget some ids, so that states and vectors of what has no row are learned as well.
        seen = torch.where(torch.rand(history.shape) < 0.1, 0, history)
        named = torch.where(torch.rand(items["item"].shape) < 0.1, 0, items["item"])
        vectors = tower(item=named, genres=items["genres"])
        states = query.states(seen)[targets != 0]
        loss = functional.cross_entropy(states @ vectors.T / temperature, targets[targets != 0] - 1)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoders.parameters(), 1.0)
        adam.step()
        total, count = total + loss.item() * len(states), count + len(states)
    encoders.eval()
    return total / count


def vocabularies_of(data: TrainingData) -> dict[str, Vocabulary]:
    """Items that were liked in training, and all genres."""
    events = data.events
    liked = events.item_ids[events.items[(events.parts == Part.TRAIN) & events.positive]]
    genres = data.item_columns[GENRES.feature]
    everything = genres.take(np.arange(len(genres))).values
    return {"items.json": Vocabulary.fit(liked.tolist()), "genres.json": Vocabulary.fit(everything.tolist())}


def examples_of(data: TrainingData, tensors: ModelTensors, items: Vocabulary, stride: int) -> Examples:
    """Of each user's moments of training the last, and every so many before it, with Feast's history as of then."""
    queries = data.training
    ends = np.append(np.flatnonzero(np.diff(queries.users)), len(queries) - 1)
    begins = np.append(0, ends[:-1] + 1)
    chosen = np.concatenate([np.arange(e, b - 1, -stride) for b, e in zip(begins, ends, strict=True)])
    first = data.events.item_ids[queries.items[queries.offsets[chosen]]]
    return Examples(
        tensors.users(data.states(queries.take(chosen)))[HISTORY.name], torch.from_numpy(items.encode(first))
    )


def catalogue(data: TrainingData, tensors: ModelTensors) -> dict[str, Tensor]:
    """Inputs of every item that has a row, in the order of the rows."""
    inputs = tensors.items((len(data.days) - 1) * data.items + np.arange(data.items))
    order = torch.argsort(inputs[ITEM.name], stable=True)
    known = order[inputs[ITEM.name][order] != 0]
    return {name: values[known] for name, values in inputs.items()}


def recalls(encoders: nn.ModuleDict, tensors: ModelTensors, data: TrainingData, queries: Queries, k: int) -> Interval:
    """Recall@k over the whole catalogue without what a user had met before, as `feast-recsys train` measures it."""
    found = retrieve({Role(name): m for name, m in encoders.items()}, tensors, data, queries, k)
    return bootstrap_interval(is_liked(found.items, queries).sum(1) / np.diff(queries.offsets), seed=0)


def write_signature(data: TrainingData, vocabularies: dict[str, Vocabulary], config: Config, folder: Path) -> None:
    """`model.yaml` and the vocabularies beside it."""
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (HISTORY,), "query"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (ITEM, GENRES), "vector"),
    }
    Signature(data.settings.retrieval.model, Stage.RETRIEVAL, graphs, config.width).save(folder)
    for name, vocabulary in vocabularies.items():
        vocabulary.save(folder / name)


if __name__ == "__main__":
    main()
