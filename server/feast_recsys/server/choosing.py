"""Which sources a request asks: those that it names, else all that say something about it, and what fills up at last.

What fills up may be named as well: answers name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.hints import did_you_mean
from feast_recsys.features.source_settings import SIMILAR
from feast_recsys.server.sources import Alike, Source
from feast_recsys.server.state import Served


def usual(names: Sequence[str], served: Served) -> tuple[Source, ...]:
    """The sources for a request about users. Where it names none, the recommender's own model fills up at last.

    Raises:
        InvalidArgument: a named source does not exist, or wants seed items; says which there are.
    """
    known = _by_name(served.sources, served.own)
    for at, name in enumerate(names):
        if name not in known:
            why = _unknown(name, known)
            if name in _alike(served):
                why = f"source {name!r} is likeness to seed_item_ids, and there are none;"
            raise _refused(at, f"{why} {served.name!r} has: {', '.join(known)}")
    return _chosen(names, known)


def like_seeds(names: Sequence[str], served: Served) -> tuple[Source, ...]:
    """The sources for a request with seed items: those of kind `similar`. Where it names none, likeness by the
    recommender's own vectors fills up at last.

    Raises:
        InvalidArgument: a named source does not exist, or is of another kind; says which there are.
    """
    known = _alike(served)
    for at, name in enumerate(names):
        if name not in known:
            why = _unknown(name, known)
            if name in _by_name(served.sources, served.own):
                why = f"source {name!r} has nothing to do with seed items;"
            raise _refused(at, f"{why} for seed items {served.name!r} has: {', '.join(known)}")
    return _chosen(names, known)


def _alike(served: Served) -> Mapping[str, Source]:
    """Sources of likeness in the order of the settings, and at last the one that all items come from."""
    listed = [source for source in served.sources if isinstance(source.way, Alike)]
    whole = [s for s in listed if s.only is None and isinstance(s.way, Alike) and s.way.index is served.index]
    own = Source(SIMILAR, 0, Alike(served.index, served.bias, served.metric, "", 0))
    return _by_name(listed, whole[0] if whole else own)


def _by_name(listed: Sequence[Source], last: Source) -> Mapping[str, Source]:
    """Sources by name; `last` comes last if it is not listed."""
    return {source.name: source for source in (*listed, last)}


def _chosen(names: Sequence[str], known: Mapping[str, Source]) -> tuple[Source, ...]:
    """Named sources in the order of the settings; all if none is named."""
    return tuple(source for name, source in known.items() if not names or name in names)


def _unknown(name: str, known: Mapping[str, Source]) -> str:
    return f"there is no source {name!r}{did_you_mean(name, known) or ';'}"


def _refused(at: int, why: str) -> InvalidArgument:
    return InvalidArgument(f"sources[{at}]: {why}", field=f"sources[{at}]")
