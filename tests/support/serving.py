"""A small recommender for a real server: a Feast repository, exported models, bundles, and oracles for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import pytest
from feast import ValueType
from feast.types import Array, Bool, Float32, Int64, String
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from onnx import helper, numpy_helper
from support import graphs
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.index import save_vectors
from feast_recsys.bundle.manifest import Manifest, RecommenderEntry, inventory
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.snapshot import write_snapshot
from feast_recsys.bundle.store import next_id, publish, stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.catalogue import read_catalogue
from feast_recsys.features.repo import Repo
from feast_recsys.server.app import Server
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

DIMENSION = 4
ITEMS = 40
AS_OF = 1_767_268_800
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
GENRES = ("x", "y", "z")

# Users 1 and 2 are complete, 3 has nulls, 4 has a profile only, 5 nothing but a list of seen items; 99 is nobody.
USERS = [1, 2, 3, 4, 5]
PROFILE = {"age": [1, 3, None, 2], "gender": ["f", "m", None, "f"], "spend": [0.5, 1.5, None, 2.0]}
HISTORY = {1: [3, 4], 2: [7, 8, 9, 10], 3: []}
SEEN = {1: [1, 2, 3], 2: [20, 21], 5: [30, 31, 32]}


def key(number: int, text: bool) -> int | str:
    """The id of a user or item, as a number or as text that sorts alike."""
    return f"k{number:03d}" if text else number


def user_inputs(text: bool) -> tuple[Input, ...]:
    kind = DType.STRING if text else DType.INT64
    return (
        Input("age", "profile:age", Side.USER, DType.INT64, default=2),
        Input("gender", "profile:gender", Side.USER, DType.STRING, default="f", vocabulary="gender.json"),
        Input("history", "history:items", Side.USER, kind, 3, kind.zero, kind.zero, vocabulary="items.json"),
        Input("hour", "request:hour", Side.CONTEXT, DType.INT64, default=1),
    )


def item_inputs(text: bool) -> tuple[Input, ...]:
    kind = DType.STRING if text else DType.INT64
    return (
        Input("item", "entity:item_id", Side.ITEM, kind, default=kind.zero, vocabulary="items.json"),
        Input("year", "catalogue:year", Side.ITEM, DType.INT64, default=1),
        Input("genres", "catalogue:genres", Side.ITEM, DType.STRING, 2, pad="", default="", vocabulary="genres.json"),
    )


def ranker_inputs(text: bool) -> tuple[Input, ...]:
    kind = DType.STRING if text else DType.INT64
    return (
        *user_inputs(text),
        Input("spend", "profile:spend", Side.USER, DType.FLOAT32, default=0.25),
        Input("user", "entity:user_id", Side.USER, kind, default=kind.zero, vocabulary="users.json"),
        *item_inputs(text),
        Input("price", "catalogue:price", Side.ITEM, DType.FLOAT32, default=0.75),
        Input("adult", "catalogue:adult", Side.ITEM, DType.BOOL, default=False),
        Input("retrieval_score", "request:retrieval_score", Side.ITEM, DType.FLOAT32, default=0.0),
        Input("discount", "request:discount", Side.ITEM, DType.INT64, default=0),
    )


@dataclass(frozen=True)
class World:
    """A repository with materialized features, and its ids."""

    repo: Repo
    text: bool

    @property
    def bundles(self) -> Path:
        return self.repo.resolve(self.repo.settings.bundles)

    @property
    def item_ids(self) -> list[str]:
        return [str(key(n, self.text)) for n in range(1, ITEMS + 1)]

    def id(self, number: int) -> str:
        """A user's or item's id as the wire has it."""
        return str(key(number, self.text))

    def online(self, entity: str, references: Sequence[str], ids: Sequence[str]) -> list[dict[str, Any]]:
        """What Feast itself says: one dict of raw values by reference for each id."""
        rows = [{entity: i if self.text else int(i)} for i in ids]
        answer = self.repo.store.get_online_features(list(references), rows, full_feature_names=True).to_dict()
        return [{r: answer[r.replace(":", "__")][n] for r in references} for n in range(len(ids))]

    def vocabularies(self) -> dict[str, Vocabulary]:
        return {
            "gender.json": Vocabulary(("f", "m")),
            "items.json": Vocabulary(tuple(key(n, self.text) for n in range(1, ITEMS + 1))),  # type: ignore[arg-type]
            "users.json": Vocabulary(tuple(key(n, self.text) for n in USERS)),  # type: ignore[arg-type]
            "genres.json": Vocabulary(GENRES),
        }


def build_world(
    folder: Path, *, redis: str | None = None, text: bool = False, serving: Mapping[str, Any] | None = None,
    recommenders: Mapping[str, Any] | None = None,
) -> World:  # fmt: skip
    """Writes, applies and materializes the repository."""
    kind = String if text else Int64

    def rows(entity: str, numbers: Sequence[int], **features: Sequence[Any]) -> pd.DataFrame:
        ids = [key(n, text) for n in numbers]
        return pd.DataFrame({entity: ids, "event_timestamp": [at(0)] * len(ids), **features})

    def keys(lists: Mapping[int, Sequence[int]]) -> list[list[int | str]]:
        return [[key(n, text) for n in values] for values in lists.values()]

    items = range(1, ITEMS + 1)
    views = [
        View("profile", "user", {"age": Int64, "gender": String, "spend": Float32},
             rows("user_id", [1, 2, 3, 4], age=pd.array(PROFILE["age"], "Int64"), gender=PROFILE["gender"],
                  spend=PROFILE["spend"])),
        View("history", "user", {"items": Array(kind)}, rows("user_id", list(HISTORY), items=keys(HISTORY))),
        View("seen", "user", {"items": Array(kind)}, rows("user_id", list(SEEN), items=keys(SEEN))),
        View("catalogue", "item",
             {"title": String, "year": Int64, "genres": Array(String), "price": Float32, "adult": Bool},
             rows("item_id", list(items),
                  title=[f"title {n}" for n in items],
                  year=pd.array([None if n == 5 else n % 4 for n in items], "Int64"),
                  genres=[list(GENRES[: n % 4]) for n in items],
                  price=[None if n == 6 else n / 8 for n in items],
                  adult=[n % 5 == 0 for n in items])),
    ]  # fmt: skip
    both = {"seen": ["seen:items", "history:items"], "top_k": 5, "candidates": 12}
    fast = {"address": "127.0.0.1:0", "poll_seconds": 0.02, "store_timeout_ms": 5000, "drain_seconds": 2.0}
    types = {"user_type": ValueType.STRING, "item_type": ValueType.STRING} if text else {}
    repo = feast_repo(
        folder,
        views,
        redis=redis,
        settings={
            "recommenders": dict(recommenders or {"both": both, "plain": {"ranking": None, "candidates": 7}}),
            "serving": fast | dict(serving or {}),
        },
        materialize_until=datetime(2024, 1, 2, tzinfo=timezone.utc),
        **types,  # type: ignore[arg-type]
    )
    return World(repo, text)


def export_models(world: World, folder: Path, *, seed: int = 0) -> dict[str, Signature]:
    """Writes the retrieval and the ranking model into sub-folders of those names."""
    known = world.vocabularies()
    retrieval = graphs.export(
        folder / "retrieval", "retrieval", Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: user_inputs(world.text), Role.ITEM_ENCODER: item_inputs(world.text)},
        known, dimension=DIMENSION, seed=seed,
    )  # fmt: skip
    inputs = ranker_inputs(world.text)
    model = soften(graphs.graph(inputs, known, DIMENSION, ranker=True, seed=seed))
    ranking = save_ranker(folder / "ranking", inputs, model)
    return {"retrieval": retrieval, "ranking": ranking}


def save_ranker(folder: Path, inputs: Sequence[Input], model: onnx.ModelProto) -> Signature:
    """Writes an exported ranking model."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = graphs.save_graph(folder, Graph(Role.RANKER, tuple(inputs), "output"), model)
    signature = Signature("ranking", Stage.RANKING, {Role.RANKER: graph})
    signature.save(folder)
    return signature


def soften(model: onnx.ModelProto) -> onnx.ModelProto:
    """The ranker with a twentieth of its logit, so that its probabilities do not run into 0 and 1."""
    nodes = list(model.graph.node)
    squash = nodes.pop()
    assert squash.op_type == "Sigmoid"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "soft"))
    nodes += [
        helper.make_node("Mul", [squash.input[0], "soft"], ["softened"]),
        helper.make_node("Sigmoid", ["softened"], list(squash.output)),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def publish_bundle(
    world: World,
    *,
    seed: int = 0,
    names: Sequence[str] = ("both", "plain"),
    numbers: Sequence[int] = range(1, ITEMS + 1),
    change: Callable[[Path], None] = lambda staged: None,
    project: str | None = None,
) -> str:
    """Publishes a bundle of the given items and returns its id; `change` may alter what was staged."""
    staged = stage(world.bundles)
    signatures = export_models(world, staged / "models", seed=seed)
    wanted = ["catalogue:title", "catalogue:year", "catalogue:genres", "catalogue:price", "catalogue:adult"]
    catalogue = read_catalogue(world.repo, wanted, NOW)
    chosen = np.array([list(catalogue.ids).index(key(n, world.text)) for n in numbers], np.int64)
    ids = catalogue.ids[chosen]
    columns = {name: column.take(chosen) for name, column in catalogue.columns.items()}
    (staged / "snapshot").mkdir()
    write_snapshot(staged / "snapshot", ids, columns)
    rows = [{"entity:item_id": i, **{r: c.to_list()[n] for r, c in columns.items()}} for n, i in enumerate(ids)]
    encode = signatures["retrieval"].graphs[Role.ITEM_ENCODER].inputs
    vectors = [graphs.expected(encode, world.vocabularies(), row, DIMENSION, seed) for row in rows]
    save_vectors(staged / "vectors.npy", np.array(vectors, np.float32).reshape(len(ids), DIMENSION))
    change(staged)
    encoder = Signature.load(staged / "models/retrieval").graphs[Role.ITEM_ENCODER].sha256
    entries = {
        name: RecommenderEntry(
            "models/retrieval", "vectors.npy", encoder, "models/ranking" if name != "plain" else None
        )
        for name in names
    }
    fingerprint = f"{seed + 1:08x}" * 8
    manifest = Manifest(
        next_id(world.bundles, NOW, fingerprint), AS_OF, fingerprint, len(ids),
        project or world.repo.store.project, entries, inventory(staged),
    )  # fmt: skip
    publish(world.bundles, staged, manifest, keep=10)
    return manifest.bundle_id


class Oracle:
    """What the server should say, from Feast's own `get_online_features` and one ONNX run per candidate."""

    def __init__(self, world: World, bundle_id: str) -> None:
        self.world, self.folder = world, world.bundles / bundle_id
        ids = np.load(self.folder / "snapshot/ids.npy")
        self.ids = [i.decode() if world.text else str(i) for i in ids.tolist()]
        self.vectors = np.load(self.folder / "vectors.npy")

    def user(self, user: str, **context: Any) -> dict[str, Any]:
        references = ["profile:age", "profile:gender", "profile:spend", "history:items", "seen:items"]
        [row] = self.world.online("user_id", references, [user])
        row["entity:user_id"] = user if self.world.text else int(user)
        return row | {f"request:{name}": value for name, value in context.items()}

    def retrieval_scores(self, user: Mapping[str, Any]) -> dict[str, float]:
        """The inner product of every item."""
        query = self._run("retrieval", Role.QUERY_ENCODER, user)[0]
        return dict(zip(self.ids, (self.vectors @ query).tolist(), strict=True))

    def probability(self, user: Mapping[str, Any], item: str, **request: Any) -> float:
        references = ["catalogue:year", "catalogue:genres", "catalogue:price", "catalogue:adult"]
        [row] = self.world.online("item_id", references, [item])
        row["entity:item_id"] = item if self.world.text else int(item)
        row |= {name if ":" in name else f"request:{name}": value for name, value in request.items()}
        return float(self._run("ranking", Role.RANKER, {**user, **row})[0])

    def _run(self, model: str, role: Role, row: Mapping[str, Any]) -> Any:
        graph = Signature.load(self.folder / "models" / model).graphs[role]
        feed = {}
        for spec in graph.inputs:
            value = row.get(spec.feature)
            if spec.max_length is not None:
                elements = list(value or [])[: spec.max_length] or [spec.pad]
                feed[spec.name] = np.array([elements], spec.dtype.numpy)
            else:
                feed[spec.name] = np.array([spec.default if value is None else value], spec.dtype.numpy)
        session = ort.InferenceSession(self.folder / "models" / model / graph.file)
        return session.run([graph.output], feed)[0]


def best(scores: Mapping[str, float], k: int, without: Sequence[str] = ()) -> list[str]:
    """The k best ids, the earlier one first among equals."""
    eligible = [i for i in scores if i not in set(without)]
    return sorted(eligible, key=lambda i: -scores[i])[:k]


@dataclass(frozen=True)
class Failure:
    """An error as the client sees it."""

    code: str
    message: str
    reason: str
    metadata: Mapping[str, str]
    fields: tuple[str, ...]
    retry: bool


def failure(call: Callable[[Any], Message], request: Message, **options: Any) -> Failure:
    """Makes a call that must fail, and reads the rich status."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, **options)
    status = rpc_status.from_call(raised.value)
    assert status is not None, f"{raised.value.code()} without a rich status: {raised.value.details()}"
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    [has_info], [has_retry] = ([any(d.Unpack(m) for d in status.details)] for m in (info, retry))
    assert has_info
    assert info.domain == "feast_recsys"
    for detail in status.details:
        detail.Unpack(bad)
    fields = tuple(v.field for v in bad.field_violations)
    return Failure(raised.value.code().name, status.message, info.reason, dict(info.metadata), fields, has_retry)


@contextmanager
def serving(world: World, **options: Any) -> Iterator[tuple[Server, RecommenderServiceStub]]:
    """A server on a free port of this machine, ready, and a client of it."""
    server = Server(world.repo, **options)
    server.start()
    try:
        assert server.wait_until_ready(30)
        with grpc.insecure_channel(server.address) as channel:
            yield server, RecommenderServiceStub(channel)
    finally:
        server.stop(0)


def counted(server: Server, name: str, **labels: str) -> float:
    """A counter of a server; 0 where nothing was counted."""
    return server.metrics.registry.get_sample_value(f"feast_recsys_{name}", labels) or 0.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until something that must happen has happened."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)
