"""Training data of a recommender: interactions, and features as they were at every moment that matters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.bundle.signature import Side
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.schema import FeatureSchema, service_schemas
from feast_recsys.features.settings import Recommender
from feast_recsys.features.streaming import CHUNK, Rows, write_joined
from feast_recsys.features.training import point_in_time, read_interactions
from feast_recsys.models.data.events import Events, Ints, Part, split_events
from feast_recsys.models.data.queries import Queries, held_out_queries, horizon_queries, next_item_queries
from feast_recsys.models.data.streaming import ColumnRows, open_joined

DAY = 86_400


@dataclass(frozen=True)
class DataConfig:
    """How interactions become training and evaluation data.

    Attributes:
        last: A user's last events that are the test; as many before them are the validation. See `split_events`.
        stride: Events of a user between two moments at which the ranker is trained.
        snapshot_rows: Item features are taken as of midnight (UTC). With more than this many pairs of item and
            midnight, only every second midnight counts, or every third, and so on.
        folder: Where joined features go, for what does not fit into memory; None keeps them in memory. A join that was
            cut off goes on there. A folder is for one recommender; remove it when features have changed at their
            source.
        chunk: Rows that are joined at once into the folder.
        refit: Whether features are joined as of the moments of validation, too, for `with_validation`.
    """

    last: int = 10
    stride: int = 3
    snapshot_rows: int = 400_000
    folder: Path | None = None
    chunk: int = CHUNK
    refit: bool = False


@dataclass(frozen=True)
class TrainingData:
    """What both models are trained and judged on.

    Attributes:
        settings: The recommender.
        user_key, item_key: The entities' keys.
        query_schemas, item_schemas, ranking_schemas: Features of the services, in declared order.
        events: All interactions.
        training, validation, test: Queries; those of training have the likes of one moment each.
        ranking: Training queries of the ranker.
        state_keys: [s] sorted numbers user * 2^40 + time, one for each row of `user_columns`.
        days: [d] midnights in unix seconds, ascending.
        user_columns: By reference, s rows: what was known of a user a second before a moment.
        item_columns: By reference, d * I rows; row day * I + item, as of that midnight.
        fingerprint: SHA-256 over the interactions, the split and the features' names.
        config: How it was made.
    """

    settings: Recommender
    user_key: EntityKey
    item_key: EntityKey
    query_schemas: tuple[FeatureSchema, ...]
    item_schemas: tuple[FeatureSchema, ...]
    ranking_schemas: tuple[FeatureSchema, ...]
    events: Events
    training: Queries
    validation: Queries
    test: Queries
    ranking: Queries
    state_keys: Ints
    days: Ints
    user_columns: Mapping[str, ColumnRows]
    item_columns: Mapping[str, ColumnRows]
    fingerprint: str
    config: DataConfig

    @property
    def items(self) -> int:
        """Number of items of the catalogue."""
        return len(self.events.item_ids)

    def states(self, queries: Queries) -> Ints:
        """[q] rows of `user_columns`."""
        return self.state_rows(queries.users, queries.times)

    def state_rows(self, users: Ints, times: Ints) -> Ints:
        """Rows of `user_columns` for pairs of a user and a moment, which must be among those of the queries."""
        return np.searchsorted(self.state_keys, _state_keys(users, times))

    def day_of(self, times: Ints) -> Ints:
        """The latest midnight of `days` at or before each moment, as a position; 0 before the first."""
        return np.maximum(np.searchsorted(self.days, times, side="right") - 1, 0)


def load_data(
    repo: Repo, recommender: str, config: DataConfig | None = None, *, progress: Reporter = SILENT
) -> TrainingData:
    """Reads the interactions and joins the features of the settings' feature services to them.

    Raises:
        InvalidSettings: the settings lack what training needs, or there is nothing to train on; names the setting.
        InvalidRepository: a feature service does not exist or has features that don't fit.
    """
    config = config or DataConfig()
    settings = repo.settings.recommender(recommender)
    where = f"recsys.recommenders.{recommender}"
    query = _service(repo, settings.retrieval.query, f"{where}.retrieval.query", (Side.USER,))
    item = _service(repo, settings.retrieval.item, f"{where}.retrieval.item", (Side.ITEM,))
    ranking: tuple[FeatureSchema, ...] = ()
    if settings.ranking is not None:
        ranking = _service(repo, settings.ranking.features, f"{where}.ranking.features", (Side.USER, Side.ITEM))
    if not query:
        raise InvalidSettings(
            f"{where}.retrieval.query is not set; name a feature service with features of the user",
            field=f"{where}.retrieval.query",
        )
    history = settings.retrieval.history
    if history is not None and history not in {s.reference for s in query if s.is_list}:
        raise InvalidSettings(
            f"{where}.retrieval.history: {history} is no list feature of feature service {settings.retrieval.query!r}; "
            "add it there",
            field=f"{where}.retrieval.history",
        )
    progress.start("read interactions")
    events = split_events(read_interactions(repo), config.last)
    progress.done(f"{len(events)} of {len(events.user_ids)} users and {len(events.item_ids)} items")
    training = next_item_queries(events)
    validation, test = held_out_queries(events, Part.VALIDATION), held_out_queries(events, Part.TEST)
    wide = horizon_queries(events, config.stride, config.last)
    parts = [training, validation, test, wide]
    if config.refit:
        parts += _until_validation(events, config)
    states = np.unique(np.concatenate([_state_keys(q.users, q.times) for q in parts]))
    days = _days(np.concatenate([q.times for q in parts]), len(events.item_ids), config.snapshot_rows)
    user_key, item_key = entity_key(repo, Side.USER), entity_key(repo, Side.ITEM)
    schemas = (*query, *item, *ranking)
    references = {side: _references(schemas, side) for side in (Side.USER, Side.ITEM)}
    progress.start("join features as of each moment")

    def user_rows(start: int, end: int) -> pa.Table:
        users, times = np.divmod(states[start:end], _TIMES)
        return _rows(user_key, events.user_ids[users], times - 1)

    def item_rows(start: int, end: int) -> pa.Table:
        day, item = np.divmod(np.arange(start, end), len(events.item_ids))
        return _rows(item_key, events.item_ids[item], days[day])

    user_columns = _join(repo, references[Side.USER], user_rows, len(states), config, "user", progress)
    item_total = len(days) * len(events.item_ids)
    item_columns = _join(repo, references[Side.ITEM], item_rows, item_total, config, "item", progress)
    progress.done(f"{len(states)} moments of users, {len(days)} days of items")
    return TrainingData(
        settings, user_key, item_key, query, item, ranking, events, training, validation, test, wide, states, days,
        user_columns, item_columns, _fingerprint(events, schemas), config,
    )  # fmt: skip


def with_validation(data: TrainingData) -> TrainingData:
    """The same data, of which what was kept for validation is for training as well. The test stays what it was.

    Args:
        data: What `load_data` gave with `refit`.
    """
    events = data.events
    parts = np.where(events.parts == Part.VALIDATION, Part.TRAIN, events.parts).astype(np.uint8)
    training, ranking = _until_validation(events, data.config)
    return replace(data, events=replace(events, parts=parts), training=training, ranking=ranking)


def _until_validation(events: Events, config: DataConfig) -> tuple[Queries, Queries]:
    """Training queries of both models over training and validation."""
    ranking = horizon_queries(events, config.stride, config.last, Part.VALIDATION)
    return next_item_queries(events, Part.VALIDATION), ranking


_TIMES = 2**40  # more seconds than any timestamp


def _join(
    repo: Repo, references: Sequence[str], rows: Rows, total: int, config: DataConfig, side: str, progress: Reporter
) -> Mapping[str, ColumnRows]:
    if config.folder is None:
        return point_in_time(repo, references, rows(0, total), progress=progress.progress)
    folder = config.folder / side
    write_joined(repo, references, rows, total, folder, chunk=config.chunk, progress=progress.progress)
    return open_joined(folder)


def _state_keys(users: Ints, times: Ints) -> Ints:
    return users * _TIMES + times


def _service(repo: Repo, name: str | None, field: str, sides: tuple[Side, ...]) -> tuple[FeatureSchema, ...]:
    if name is None:
        return ()
    schemas = service_schemas(repo, name)
    for schema in schemas:
        if schema.side not in sides:
            raise InvalidSettings(
                f"{field}: feature service {name!r} has {schema.reference}, a feature of the {schema.side.value}; "
                f"it may have features of the {' and the '.join(s.value for s in sides)} only",
                field=field,
            )
    return schemas


def _references(schemas: Sequence[FeatureSchema], side: Side) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s.reference for s in schemas if s.side is side))


def _days(times: Ints, items: int, most: int) -> Ints:
    """Distinct midnights at or before the moments, `step` days apart so that items * days stays within `most`."""
    midnights = np.unique(times // DAY)
    step = 1
    while len(kept := np.unique(midnights // step * step)) * items > most and len(kept) > 1:
        step += 1
    return np.asarray(kept * DAY, np.int64)


def _rows(key: EntityKey, ids: Array, times: Ints) -> pa.Table:
    moments = pa.array(times, pa.int64()).cast(pa.timestamp("s", "UTC"))
    return pa.table({key.join_key: pa.array(ids), "event_timestamp": moments})


def _fingerprint(events: Events, schemas: Sequence[FeatureSchema]) -> str:
    digest = hashlib.sha256()
    for ids in (events.user_ids, events.item_ids):
        digest.update("\n".join(map(str, ids.tolist())).encode())
    for array in (events.users, events.items, events.times, events.positive, events.parts):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("\n".join(s.reference for s in schemas).encode())
    return digest.hexdigest()
