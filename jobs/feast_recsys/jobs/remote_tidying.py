"""What servers of indexes hold, brought in line with the bundles that are there: aliases follow, leftovers go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

from feast_recsys.bundle.errors import IndexUnavailable, InvalidSettings
from feast_recsys.bundle.index.engine import Engine
from feast_recsys.bundle.store import current, history
from feast_recsys.jobs.ledger import Held, Ledger
from feast_recsys.jobs.remote_index import connected
from feast_recsys.jobs.report import Journal


def switch_aliases(root: Path) -> int:
    """Points the alias of each recommender at the collection of the current bundle, in one step each.

    A job does it right after the pointer. After going back to an older bundle (`store.point`) it is to be called, or is
    done by the next job.

    Args:
        root: Folder of bundles.

    Returns:
        How many were switched; 0 where all were right.

    Raises:
        IndexUnavailable: a server does not answer; call it again.
        InvalidSettings: a client is not installed; names the extra.
    """
    return sum(_at_server(lines, _switch) for lines in _by_server(_of_current(root)))


def follow_pointer(root: Path, journal: Journal) -> None:
    """Switches aliases as a step of a job, which goes on without them: no server of ours asks by an alias."""
    groups = _by_server(_of_current(root))
    if groups:
        with journal.step("switch aliases") as outcome:
            switched = _each(groups, _switch, journal, "the alias is switched by the next run")
            outcome.counts["switched"] = switched
            outcome.text = f"{switched} switched" if switched else "nothing to switch"


def drop_leftovers(root: Path, journal: Journal) -> None:
    """Drops the collections whose bundle is gone, or was never published because its job died; a step if there are any.

    Call it while holding the job's lease, and not while a bundle is being filled. A server that does not answer is
    noted, and asked again by the next run.
    """
    ledger, there = Ledger(root), set(history(root))
    gone = _by_server(line for line in ledger.read() if line.bundle_id not in there)

    def drop(engine: Engine, line: Held) -> bool:
        engine.drop(line.collection)
        ledger.strike(line)
        return True

    if gone:
        with journal.step("drop old collections") as outcome:
            dropped = _each(gone, drop, journal, "its old collections are dropped by the next run")
            outcome.counts["dropped"] = dropped
            outcome.text = f"{dropped} dropped"


def _of_current(root: Path) -> list[Held]:
    now = current(root)
    return [line for line in Ledger(root).read() if line.bundle_id == now]


def _switch(engine: Engine, line: Held) -> bool:
    if engine.aliased(line.alias) == line.collection:
        return False
    engine.point(line.alias, line.collection)
    return True


def _each(groups: Iterable[list[Held]], work: Callable[[Engine, Held], bool], journal: Journal, otherwise: str) -> int:
    """How many lines something was done for; servers that could not be asked are noted."""
    done = 0
    for lines in groups:
        try:
            done += _at_server(lines, work)
        except (IndexUnavailable, InvalidSettings) as error:
            journal.notes.append(f"{error.message}; {otherwise}")
    return done


def _at_server(lines: list[Held], work: Callable[[Engine, Held], bool]) -> int:
    with connected(lines[0].kind, lines[0].address) as engine:
        return sum(work(engine, line) for line in lines)


def _by_server(lines: Iterable[Held]) -> list[list[Held]]:
    def server(line: Held) -> tuple[str, str]:
        return line.kind, line.address

    return [list(group) for _, group in groupby(sorted(lines, key=server), server)]
