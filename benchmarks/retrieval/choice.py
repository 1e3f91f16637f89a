"""What `index: {recall: 0.99}` chooses for a world, measured by the same code as a run of `materialize`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

from benchmarks.retrieval.worlds import World

from feast_recsys.bundle import index as index_package
from feast_recsys.bundle.index.entry import IndexEntry
from feast_recsys.features.index_settings import MeasuredIndex
from feast_recsys.jobs import choose_index
from feast_recsys.jobs.choose_index import Choosing, describe, exact_entry, needs_nothing
from feast_recsys.jobs.queries import Queries

FILE = "choice.json"


def chosen(
    world: World, folder: Path, settings: MeasuredIndex, *, keep: bool = False, say: Callable[[str], None] = print
) -> IndexEntry:
    """The choice, taken from an earlier run where the code that chooses is the same.

    Args:
        world: Its items, and the queries of the choice.
        folder: Where it is kept.
        settings: What is wanted.
        keep: Take it even if the code has changed since.
        say: Told what takes long.
    """
    path, mark = folder / FILE, _mark(settings)
    if path.is_file():
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["mark"] == mark or keep:
            return IndexEntry.of(document["entry"])
    if needs_nothing(settings, len(world.items)):
        entry = exact_entry(settings, len(world.items), f"fewer than {choose_index.SMALL:,} items")
    else:
        say("choosing ...")
        place = folder / "choice"
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(place.with_name("choice.trials"), ignore_errors=True)
        entry = Choosing(settings, world.items, place, "choice").choose(lambda: Queries(world.tuning, world.name))
        shutil.rmtree(place, ignore_errors=True)  # Builds has the same
    say(f"chosen: {describe(entry)}")
    path.write_text(json.dumps({"mark": mark, "entry": asdict(entry)}, indent=1) + "\n", encoding="utf-8")
    return entry


def wish(recall: float, k: int, kinds: Collection[str]) -> MeasuredIndex:
    """The settings of a choice among some kinds, or all."""
    return MeasuredIndex(recall=recall, k=k, kinds=tuple(kinds))


def _mark(settings: MeasuredIndex) -> str:
    """Changes with the settings and with any code that may change the choice."""
    index, jobs = Path(index_package.__file__ or "").parent, Path(choose_index.__file__).parent
    files = [*sorted(index.glob("*.py")), *(jobs / f"{name}.py" for name in ("choose_index", "index_trials"))]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    return hashlib.sha256((settings.model_dump_json() + text).encode()).hexdigest()[:16]
