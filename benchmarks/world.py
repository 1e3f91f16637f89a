"""All that is on disk: models, repositories with filled stores, bundles. Made once, and again when inputs change.

WORK/
  models/            exported models; models-whole/: the same without the split of the ranker, for comparison
  redis/, sqlite/    a Feast repository each; redis/dump.rdb is what Redis held when it was filled
  bundles/ITEMS/     bundles of a catalogue of that size; ITEMS-whole/: with the models of models-whole
  requests/, logs/
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks import content
from benchmarks.bundles import publish_bundle
from benchmarks.content import RANKING, RETRIEVAL
from benchmarks.models import export_models
from benchmarks.processes import ROOT, start_redis
from benchmarks.repository import REDIS_VARIABLE, STORES, fill, write_configuration

from feast_recsys.bundle.signature import Role, Signature
from feast_recsys.bundle.store import current, history, point

STAMP = "stamp.txt"
MODELS, WHOLE_MODELS = "models", "models-whole"
SERVING = {"address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0", "store_timeout_ms": 2000, "drain_seconds": 2.0}


@dataclass(frozen=True)
class Size:
    """How much there is.

    Attributes:
        users: Rows of the user view.
        pool: Items that the online store holds, and that candidates are drawn from. The naive peer reads them there;
            with the whole catalogue it would be no faster.
        catalogues: Numbers of items of the bundles, ascending.
    """

    users: int
    pool: int
    catalogues: tuple[int, ...]


@dataclass(frozen=True)
class World:
    """Where everything is."""

    work: Path
    size: Size

    @property
    def logs(self) -> Path:
        """What children say on standard error."""
        return self.work / "logs"

    @property
    def ranker(self) -> Path:
        """The exported ranking model."""
        return self.work / MODELS / RANKING

    @property
    def encoders(self) -> Path:
        """The exported retrieval model."""
        return self.work / MODELS / RETRIEVAL

    @property
    def is_split(self) -> bool:
        """Whether the exporter found something in the ranker to hoist."""
        return Signature.load(self.ranker).graphs[Role.RANKER].split is not None

    def bundles(self, items: int, *, whole: bool = False) -> Path:
        """Folder of bundles of one catalogue."""
        return self.work / "bundles" / _catalogue(items, whole)

    def bundle(self, items: int) -> Path:
        """The bundle of one catalogue that is in service."""
        return self.bundles(items) / str(current(self.bundles(items)))

    def folder(self, store: str) -> Path:
        """The repository of one online store."""
        return self.work / store

    def configuration(self, store: str, items: int, *, whole: bool = False) -> Path:
        """Writes the configuration of one store and catalogue, and returns its path."""
        return write_configuration(
            self.folder(store), store, _catalogue(items, whole), WHOLE_MODELS if whole else MODELS, SERVING
        )


def build(work: Path, size: Size, stores: Sequence[str] = STORES, say: Callable[[str], None] = print) -> World:
    """Makes what is missing or out of date.

    Raises:
        Died: Redis does not start.
    """
    world = World(work.absolute(), size)
    world.work.mkdir(parents=True, exist_ok=True)
    models = _inputs("models", ("bundle", "exporters"), ())
    _once(world.work / MODELS, models, lambda: export_models(world.work / MODELS), say)
    first = min(size.catalogues)
    for store in stores:
        inputs = _inputs("store", (), [size.users, size.pool, first])
        _once(world.folder(store), inputs, partial(_fill, world, store, first), say)
    for items in size.catalogues:
        _bundle(world, stores[0], items, models, say)
    if world.is_split:
        _once(world.work / WHOLE_MODELS, models, partial(_without_split, world), say)
        _bundle(world, stores[0], first, models, say, whole=True)
    return world


def _bundle(
    world: World, store: str, items: int, models: str, say: Callable[[str], None], *, whole: bool = False
) -> None:
    root, configuration = world.bundles(items, whole=whole), world.configuration(store, items, whole=whole)
    made_of = _inputs("bundle", ("bundle", "jobs"), [items, models])
    _once(root, made_of, partial(publish_bundle, configuration, root, items), say)
    # A run that was cut short in the middle of a swap may have left the twin in service.
    point(root, sorted(history(root))[0])


def _without_split(world: World) -> None:
    folder = world.work / WHOLE_MODELS
    shutil.copytree(world.work / MODELS, folder, dirs_exist_ok=True)
    signature = Signature.load(folder / RANKING)
    graph = signature.graphs[Role.RANKER]
    replace(signature, graphs={Role.RANKER: replace(graph, split=None)}).save(folder / RANKING)


def _catalogue(items: int, whole: bool) -> str:
    return f"{items}-whole" if whole else str(items)


def _fill(world: World, store: str, items: int) -> None:
    size = world.size
    ids = content.pool(items, size.pool)
    users = (content.user_ids(size.users), content.user_columns(size.users), content.histories(size.users, items))
    rows = (ids, content.rows_of(content.item_columns(items), ids))
    with ExitStack() as stack:
        if store == "redis":
            _, address = start_redis(world.folder(store), world.logs, stack)
            os.environ[REDIS_VARIABLE] = address
            stack.callback(os.environ.pop, REDIS_VARIABLE)
        fill(world.folder(store), world.configuration(store, items), users, rows)
        if store == "redis":
            import redis

            with redis.Redis(port=int(address.rpartition(":")[2])) as client:
                client.save()


def _once(folder: Path, inputs: str, make: Callable[[], object], say: Callable[[str], None]) -> None:
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text("utf-8") == inputs:
        return
    say(f"making {folder} ...")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make()
    stamp.write_text(inputs, "utf-8")


def _inputs(what: str, rooms: Sequence[str], facts: Sequence[object]) -> str:
    """A hash over all that shapes a part of the world: our sources, those of some rooms, versions, sizes."""
    digest = hashlib.sha256(f"{what} {json.dumps(list(facts))}".encode())
    own = [ROOT / "benchmarks" / name for name in ("content.py", "models.py", "repository.py", "bundles.py")]
    for path in [*own, *(p for room in rooms for p in sorted((ROOT / room).rglob("*.py")))]:
        digest.update(path.read_bytes())
    digest.update(repr([version(name) for name in ("feast", "torch", "onnx", "onnxruntime", "numpy")]).encode())
    return digest.hexdigest()


def facts(size: Size) -> dict[str, object]:
    """The sizes, for the report."""
    return asdict(size)
