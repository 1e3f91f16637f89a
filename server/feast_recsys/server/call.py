"""The steps that the three calls are made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from feast_recsys.bundle.columns import Array, Column
from feast_recsys.bundle.errors import InvalidArgument, MissingFeature, OnlineStoreUnavailable, RecsysError
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.bundle.tensors import to_tensor, to_tensors
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.eligibility import named_in_request, seen_rows
from feast_recsys.server.items import complete, item_columns
from feast_recsys.server.metrics import Metrics, Stages
from feast_recsys.server.ranking import Candidates, Ranker
from feast_recsys.server.reads import Read, StoreReads
from feast_recsys.server.requests import ContextValue, Eligibility, Info, UserStatus
from feast_recsys.server.stage import Stage
from feast_recsys.server.state import Need, Served, ServingState
from feast_recsys.server.users import NOBODY_ASKED, Key, Reading, Users, repeated, unasked

logger = logging.getLogger(__name__)

SEEN_UNKNOWN = "SEEN_ITEMS_UNKNOWN"
FRESH_UNAVAILABLE = "FRESH_ITEM_FEATURES_UNAVAILABLE"
SEEDS_WITHOUT_DIRECTION = "SEED_ITEMS_WITHOUT_DIRECTION"


@dataclass
class Call:
    """One call on its way: what it works on, and what it knows of the user so far.

    Attributes:
        state: The bundle, taken once.
        served: The recommender.
        keys: The users' ids, which may repeat; none where the request is about items alone.
        ids: Ids of further entities that came with the request, by join key.
        request: The request's context as it came, for on-demand views.
        context: Columns of one row by feature, from the request.
        deadline: When to stop.
        stages: Where times go.
        metrics: Where defaults are counted.
        reads: Reads the online store.
        read: What the store said of the users; nothing before `read_users`.
        columns: A row for each user by feature: all that is known of them; empty before `read_users`.
        reasons: Why the answer is less than it could be, beside what the users' read says.
    """

    state: ServingState
    served: Served
    keys: Sequence[Key]
    ids: Mapping[str, Key]
    request: Mapping[str, ContextValue]
    context: Mapping[str, Column]
    deadline: Deadline
    stages: Stages
    metrics: Metrics
    reads: StoreReads
    read: Users = NOBODY_ASKED
    columns: dict[str, Column] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    _reading: Reading | None = None
    _reads: list[Read] = field(default_factory=list)

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        """Gives up what was begun and not waited for: an error came in between."""
        for read in self._reads:
            self.reads.abandon(read)

    @property
    def snapshot(self) -> Snapshot:
        """The catalogue."""
        return self.state.bundle.snapshot

    @property
    def users(self) -> int:
        """How many users the call is for."""
        return len(self.keys)

    def begin_users(self, need: Need) -> None:
        """Begins to read the users, if there are any.

        Raises:
            InvalidArgument: an id or a context value that the store needs is missing or can't be one.
        """
        self._reading = self.served.readings[need]
        if self._reading is None or not self.keys:
            return
        name = self.state.user_key.join_key
        try:
            keys = [{name: key, **self.ids} for key in self.keys]
            self._reads.append(self.reads.begin_users(self._reading, keys, self.request))
        except InvalidArgument as error:
            raise self._in_terms_of_the_request(error) from error

    def read_users(self) -> None:
        """Waits for the users and puts together what is known of them: the request's word counts over the store's.

        Raises:
            OnlineStoreUnavailable, StaleFeature, DeadlineExceeded, InvalidArgument: see StoreReads.users.
        """
        reading, n = self._reading, self.users
        self.read = unasked(n)
        if reading is not None:
            try:
                self.read = self.reads.users(reading, self._reads.pop(), self.deadline)
            except InvalidArgument as error:
                raise self._in_terms_of_the_request(error) from error
        given = {**self.served.unset, **self.context}
        if n > 1:
            given = {reference: repeated(column, n) for reference, column in given.items()}
        self.columns = {**self.read.columns, **given}
        if self.served.takes_user_id:
            key = self.state.user_key
            self.columns[f"entity:{key.join_key}"] = complete(key.dtype, np.array(self.keys, key.dtype.numpy))
        for reference in reading.inputs if reading is not None else ():
            column = self.columns[reference]
            if not (column.valid.item(0) if n == 1 else column.valid.all()):
                self.metrics.defaults(reference, column)
        self.stages.done("user")

    def allowed(self, eligibility: Eligibility, blocked: tuple[str, ...] = ()) -> Allowed | None:
        """Which items the request lets come back, `blocked` ones not; None for all.

        Raises:
            InvalidArgument: the filter is wrong.
        """
        if blocked:
            eligibility = replace(eligibility, exclude_item_ids=(*eligibility.exclude_item_ids, *blocked))
        allow = named_in_request(eligibility, self.snapshot, self.state.filters, self.metrics)
        self.stages.done("filter")
        return allow

    def encode(self, query: Stage) -> Vectors:
        """[users, d] query vectors."""
        vectors = query.graph.run(self._user_tensors(query))
        self._check_finite(vectors, query)
        return vectors

    def seen(self, user: int) -> Rows:
        """Rows of what a user has seen; UNKNOWN_ROW for items outside the catalogue."""
        return seen_rows((self.columns[reference] for reference in self.served.settings.seen), self.snapshot, user)

    def history(self, reference: str, user: int) -> Rows:
        """Rows of a list of items of a user, in its order; UNKNOWN_ROW for items outside the catalogue."""
        return seen_rows([self.columns[reference]], self.snapshot, user)

    def stranger(self, user: int) -> bool:
        """Whether nothing is known of what a user likes: an empty history, or no row at all where none is named."""
        history = self.served.history
        if history is None:
            return bool(self.read.degraded) or self.read.statuses[user] is UserStatus.UNKNOWN
        items = self.columns[history][user]
        return items is None or not len(items)

    def fresh(self, rows: Rows, given: Mapping[str, Column]) -> Mapping[str, Column]:
        """What was given, and what the online store says of features that are to be read at each request.

        Where it says nothing and the policy is to go on, the snapshot's values stand in, and the answer says so.

        Raises:
            OnlineStoreUnavailable, StaleFeature, DeadlineExceeded: see StoreReads.columns.
        """
        reader = self.served.fresh
        if reader is None or not len(rows) or all(r in given for r in reader.plan.references):
            return given
        read = self.reads.begin_items(reader, self.snapshot.keys_of(rows).tolist())
        columns = self.reads.columns(read, self.deadline)
        self.stages.done("fresh")
        if columns is None:
            self.reasons.append(FRESH_UNAVAILABLE)
            return given
        return {**columns, **given}

    def gather(self, ranker: Ranker, rows: Rows, given: Mapping[str, Column]) -> Gathered:
        """What a ranker takes of some items beside the kept columns: given by the request, else from the catalogue.

        Raises:
            MissingFeature: an item lacks a required feature.
        """
        parts = ranker.parts
        if parts is not None and not parts.computed.isdisjoint(given):
            parts = None
        inputs = ranker.whole.item_inputs if parts is None else parts.raw
        columns = item_columns(inputs, self.snapshot, rows, given)
        for reference in {i.feature for i in inputs if i.from_store}:
            self.metrics.defaults(reference, columns[reference])
        if parts is not None and parts.complete is not None and not parts.complete[rows].all():
            self._count_hoisted(parts.hoisted, rows)
        gathered = Gathered(rows, to_tensors(columns, inputs), parts is None)
        self.stages.done("gather")
        return gathered

    def rank(self, ranker: Ranker, items: Gathered) -> Vectors:
        """[m] float32 probabilities of m items."""
        if not len(items.rows):
            return np.empty(0, np.float32)
        user = self._user_tensors(ranker.whole)
        if items.whole:
            scores = ranker.run_whole({**user, **items.tensors})
        else:
            scores = ranker.run_parts(Candidates(user, items.rows, items.tensors), self.deadline)
        self._check_finite(scores, ranker.whole)
        self.stages.done("rank")
        return scores

    def info(self, exclude_seen: bool = False, user: int = 0) -> Info:
        """How the answer for one of the users came about."""
        reasons = tuple(dict.fromkeys((*self.read.degraded, *self.reasons)))
        if exclude_seen and self.read.degraded and not all(r in self.context for r in self.served.settings.seen):
            reasons = (*reasons, SEEN_UNKNOWN)
        self.metrics.degraded(reasons)
        manifest = self.state.bundle.manifest
        return Info(manifest.bundle_id, manifest.as_of, self.read.statuses[user], reasons)

    def _in_terms_of_the_request(self, error: InvalidArgument) -> InvalidArgument:
        """The error of a join key or of an on-demand view's input, by the path of the request's field."""
        if error.field == self.state.user_key.join_key:
            return InvalidArgument(f"user_id: {error.message}", field="user_id")
        path = f"entity_keys[{error.field}]" if error.field in self.served.entity_keys else f"context[{error.field}]"
        return InvalidArgument(f"{path}: {error.message}", field=path)

    def _user_tensors(self, stage: Stage) -> dict[str, Array]:
        try:
            return to_tensors(self.columns, stage.user_inputs)
        except MissingFeature as error:
            if self.read.degraded:
                raise OnlineStoreUnavailable(f"{error.message}, and the online store can't be read") from error
            raise

    def _count_hoisted(self, hoisted: Sequence[Input], rows: Rows) -> None:
        """Does for features whose tensors are in the kept columns what `to_tensors` does for the others."""
        for spec in {i.feature: i for i in hoisted if i.from_store}.values():
            column = self.snapshot.gather(spec.feature, rows)
            self.metrics.defaults(spec.feature, column)
            if spec.required:
                to_tensor(column, spec)

    def _check_finite(self, result: Vectors, stage: Stage) -> None:
        if not np.isfinite(result).all():
            where = f"the {stage.graph.graph.role.value} of recommender {self.served.name!r}"
            logger.error("%s gave NaN or infinity for user %r (bundle %s)", where, self.keys, self.state.bundle.id)
            raise RecsysError(f"{where} gave NaN or infinity; its owner must mend it")


@dataclass(frozen=True, slots=True)
class Gathered:
    """Items on their way to a ranker.

    Attributes:
        rows: [m] rows of the snapshot.
        tensors: m rows of each input that is not in the kept columns, by input name.
        whole: Whether the whole graph must run: a feature that the item part took is given by the request.
    """

    rows: Rows
    tensors: Mapping[str, Array]
    whole: bool
