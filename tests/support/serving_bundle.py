"""Exported models and bundles for the world of `serving_world`, and what they should answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from support import graphs
from support.serving_world import AS_OF, DIMENSION, ITEMS, NOW, World, item_inputs, key, ranker_inputs, user_inputs

from feast_recsys.bundle.index.entry import IndexEntry
from feast_recsys.bundle.index.vectors import save_vectors
from feast_recsys.bundle.manifest import Manifest, RecommenderEntry, inventory
from feast_recsys.bundle.runtime import load_split
from feast_recsys.bundle.signature import Graph, Input, Role, Signature, Stage
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot
from feast_recsys.bundle.store import next_id, publish, stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.split.ranker import SplitResult, split_ranker
from feast_recsys.features.catalogue import Catalogue, read_catalogue
from feast_recsys.jobs.embed import with_key
from feast_recsys.jobs.item_columns import write_item_columns
from feast_recsys.jobs.sources import add_sources, all_sources, joint, read_source_data


def export_models(world: World, folder: Path, *, seed: int = 0) -> dict[str, Signature]:
    """Writes the retrieval and the ranking model into sub-folders of those names."""
    known = world.vocabularies()
    retrieval = graphs.export(
        folder / "retrieval", "retrieval", Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: user_inputs(world.text), Role.ITEM_ENCODER: item_inputs(world.text)},
        known, dimension=DIMENSION, seed=seed,
    )  # fmt: skip
    if world.ranker is not None:
        inputs, model = world.ranker
    else:
        inputs = tuple(replace(i, fresh=i.feature in world.fresh) for i in ranker_inputs(world.text))
        model = soften(graphs.graph(inputs, known, DIMENSION, ranker=True, seed=seed))
    ranking = save_ranker(folder / "ranking", inputs, model, known if world.split else None)
    return {"retrieval": retrieval, "ranking": ranking}


def save_ranker(
    folder: Path, inputs: Sequence[Input], model: onnx.ModelProto, known: Mapping[str, Vocabulary] | None = None
) -> Signature:
    """Writes an exported ranking model; split, if its vocabularies are given."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = graphs.save_graph(folder, Graph(Role.RANKER, tuple(inputs), model.graph.output[0].name), model)
    if known is not None:
        result = _split(graph, model.SerializeToString(), tuple(known.items()))
        for name, content in result.files.items():
            (folder / name).write_bytes(content)
        graph = replace(graph, split=result.split)
    signature = Signature("ranking", Stage.RANKING, {Role.RANKER: graph})
    signature.save(folder)
    return signature


@cache
def _split(graph: Graph, model: bytes, known: tuple[tuple[str, Vocabulary], ...]) -> SplitResult:
    """The same ranker is split once in a run of the tests."""
    result = split_ranker(onnx.load_from_string(model), graph, dict(known), tolerance=1e-5)
    assert result.split is not None, result.metadata
    return result


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
    index: IndexEntry | None = None,
) -> str:
    """Publishes a bundle of the given items and returns its id.

    `change` may alter what was staged, and write the files of the `index`.
    """
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
    for graph in signatures["ranking"].graphs.values():
        inputs = graph.inputs
        if graph.split is not None and graph.split.item is not None:
            part = load_split(staged / "models/ranking", graph.split, item=True).item
            assert part is not None
            write_item_columns(staged / "item_columns", part, inputs, with_key(columns, "item_id", ids), ids, batch=7)
    kept = "item_columns" if (staged / "item_columns").exists() else None
    change(staged)
    encoder = Signature.load(staged / "models/retrieval").graphs[Role.ITEM_ENCODER].sha256
    entries = {
        name: RecommenderEntry(
            "models/retrieval",
            "vectors.npy",
            encoder,
            "models/ranking" if name != "plain" else None,
            kept if name != "plain" else None,
            index=index,
        )
        for name in names
    }
    entries |= _source_models(world, staged, names, rows, seed + 1000)
    data = read_source_data(world.repo, Catalogue(ids, columns), AS_OF)
    entries = add_sources(world.repo, staged, open_snapshot(staged / "snapshot"), data, entries)
    fingerprint = f"{seed + 1:08x}" * 8
    manifest = Manifest(
        next_id(world.bundles, NOW, fingerprint), AS_OF, fingerprint, len(ids),
        project or world.repo.store.project, entries, inventory(staged),
    )  # fmt: skip
    publish(world.bundles, staged, manifest, keep=10)
    return manifest.bundle_id


def _source_models(
    world: World, staged: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, RecommenderEntry]:
    """The models that sources of the recommenders take beside `retrieval`; all have the same weights."""
    wanted = {(name, s.model) for name, _, s in all_sources(world.repo) if s.model is not None and name in names}
    inputs = {Role.QUERY_ENCODER: user_inputs(world.text), Role.ITEM_ENCODER: item_inputs(world.text)}
    entries = {}
    for name, model in sorted(wanted):
        signature = graphs.export(
            staged / "models" / model, model, Stage.RETRIEVAL, inputs, world.vocabularies(), dimension=DIMENSION,
            seed=seed,
        )  # fmt: skip
        encoder = signature.graphs[Role.ITEM_ENCODER]
        vectors = [graphs.expected(encoder.inputs, world.vocabularies(), row, DIMENSION, seed) for row in rows]
        save_vectors(staged / f"{model}.npy", np.array(vectors, np.float32).reshape(len(rows), DIMENSION))
        entries[joint(name, model)] = RecommenderEntry(f"models/{model}", f"{model}.npy", encoder.sha256)
    return entries


def alter_signature(model: str, role: Role, name: str, **changes: Any) -> Callable[[Path], None]:
    """Changes one input in what the signature says, and leaves the graph as it is."""

    def change(staged: Path) -> None:
        signature = Signature.load(staged / "models" / model)
        graph = signature.graphs[role]
        inputs = tuple(replace(i, **changes) if i.name == name else i for i in graph.inputs)
        replace(signature, graphs={**signature.graphs, role: replace(graph, inputs=inputs)}).save(
            staged / "models" / model
        )

    return change


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

    def retrieval_scores(self, user: Mapping[str, Any], model: str = "retrieval") -> dict[str, float]:
        """The inner product of every item, by the vectors of a model."""
        vectors = self.vectors if model == "retrieval" else np.load(self.folder / f"{model}.npy")
        query = self._run(model, Role.QUERY_ENCODER, user)[0]
        return dict(zip(self.ids, (vectors @ query).tolist(), strict=True))

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
