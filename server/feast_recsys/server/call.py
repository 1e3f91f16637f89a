"""The steps that the three calls are made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from feast_recsys.bundle.columns import Array, Column
from feast_recsys.bundle.errors import InvalidArgument, MissingFeature, OnlineStoreUnavailable, RecsysError
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.vectors import mean_direction
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.bundle.tensors import to_tensor, to_tensors
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.eligibility import named_in_request, seen_rows, without
from feast_recsys.server.items import complete, item_columns
from feast_recsys.server.metrics import Metrics, Stages
from feast_recsys.server.ranking import Candidates, Ranker
from feast_recsys.server.reads import NOBODY_ASKED, Key, Read, Source, StoreReads, User
from feast_recsys.server.requests import ContextValue, Eligibility, Info
from feast_recsys.server.stage import Stage
from feast_recsys.server.state import Need, Served, ServingState

logger = logging.getLogger(__name__)

SEEN_UNKNOWN = "SEEN_ITEMS_UNKNOWN"
FRESH_UNAVAILABLE = "FRESH_ITEM_FEATURES_UNAVAILABLE"


@dataclass
class Call:
    """One call on its way: what it works on, and what it knows of the user so far.

    Attributes:
        state: The bundle, taken once.
        served: The recommender.
        key: The user's id; None where the request is about items alone.
        ids: Ids by join key: the user's, and those of further entities that came with the request.
        request: The request's context as it came, for on-demand views.
        context: Columns of one row by feature, from the request.
        deadline: When to stop.
        stages: Where times go.
        metrics: Where defaults are counted.
        reads: Reads the online store.
        user: What the store said; nothing before `read_user`.
        columns: One row by feature: all that is known of the user; empty before `read_user`.
        reasons: Why the answer is less than it could be, beside what the user's read says.
    """

    state: ServingState
    served: Served
    key: Key | None
    ids: Mapping[str, Key]
    request: Mapping[str, ContextValue]
    context: Mapping[str, Column]
    deadline: Deadline
    stages: Stages
    metrics: Metrics
    reads: StoreReads
    user: User = NOBODY_ASKED
    columns: dict[str, Column] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    _source: Source | None = None
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

    def begin_user(self, need: Need) -> None:
        """Begins to read the user.

        Raises:
            InvalidArgument: an id or a context value that the store needs is missing or can't be one.
        """
        self._source = self.served.sources[need]
        if self._source is None:
            return
        try:
            self._reads.append(self.reads.begin_user(self._source, self.ids, self.request))
        except InvalidArgument as error:
            raise self._in_terms_of_the_request(error) from error

    def read_user(self) -> None:
        """Waits for the user and puts together what is known of them: the request's word counts over the store's.

        Raises:
            OnlineStoreUnavailable, StaleFeature, DeadlineExceeded, InvalidArgument: see StoreReads.user.
        """
        source = self._source
        if source is not None:
            try:
                self.user = self.reads.user(source, self._reads.pop(), self.deadline)
            except InvalidArgument as error:
                raise self._in_terms_of_the_request(error) from error
        self.columns = {**self.served.unset, **self.user.columns, **self.context}
        if self.served.takes_user_id and self.key is not None:
            key = self.state.user_key
            self.columns[f"entity:{key.join_key}"] = complete(key.dtype, np.array([self.key], key.dtype.numpy))
        for reference in source.inputs if source is not None else ():
            column = self.columns[reference]
            if not column.valid.item(0):
                self.metrics.defaults(reference, column)
        self.stages.done("user")

    def allowed(self, eligibility: Eligibility) -> Allowed | None:
        """Which items the request lets come back; None for all.

        Raises:
            InvalidArgument: the filter is wrong.
        """
        allow = named_in_request(eligibility, self.snapshot)
        self.stages.done("filter")
        return allow

    def search(self, k: int, allow: Allowed | None, exclude_seen: bool) -> tuple[Rows, Vectors]:
        """The k best items: rows and scores, best first."""
        vectors = self.served.query.graph.run(self._user_tensors(self.served.query))
        self._check_finite(vectors, self.served.query)
        self.stages.done("encode")
        return self._search(vectors, k, allow, exclude_seen)

    def search_like(self, seeds: Rows, k: int, allow: Allowed | None, exclude_seen: bool) -> tuple[Rows, Vectors]:
        """The k items most like some others, without these: rows and scores, best first."""
        allow = without(allow, seeds, len(self.snapshot))
        query = mean_direction(self.served.index.vectors_of(seeds), bias=self.served.bias)
        self.stages.done("encode")
        if not query.any():  # nothing is known of what these items are like
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return self._search(query, k, allow, exclude_seen)

    def _search(self, query: Vectors, k: int, allow: Allowed | None, exclude_seen: bool) -> tuple[Rows, Vectors]:
        if exclude_seen:
            lists = [self.columns[reference] for reference in self.served.settings.seen]
            allow = without(allow, seen_rows(lists, self.snapshot), len(self.snapshot))
        rows, scores = self.served.index.search(query, k, allow)
        self.stages.done("search")
        return rows[0], scores[0]

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

    def info(self, exclude_seen: bool = False) -> Info:
        """How the answer came about."""
        reasons = tuple(dict.fromkeys((*self.user.degraded, *self.reasons)))
        if exclude_seen and self.user.degraded and not all(r in self.context for r in self.served.settings.seen):
            reasons = (*reasons, SEEN_UNKNOWN)
        self.metrics.degraded(reasons)
        manifest = self.state.bundle.manifest
        return Info(manifest.bundle_id, manifest.as_of, self.user.status, reasons)

    def _in_terms_of_the_request(self, error: InvalidArgument) -> InvalidArgument:
        """The error of a join key or of an on-demand view's input, by the path of the request's field."""
        if error.field == self.state.user_key.join_key:
            return wrong_user_id(error)
        path = f"entity_keys[{error.field}]" if error.field in self.served.entity_keys else f"context[{error.field}]"
        return InvalidArgument(f"{path}: {error.message}", field=path)

    def _user_tensors(self, stage: Stage) -> dict[str, Array]:
        try:
            return to_tensors(self.columns, stage.user_inputs)
        except MissingFeature as error:
            if self.user.degraded:
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
            logger.error("%s gave NaN or infinity for user %r (bundle %s)", where, self.key, self.state.bundle.id)
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


def wrong_user_id(error: InvalidArgument) -> InvalidArgument:
    """The error of a key, in terms of the request."""
    return InvalidArgument(f"user_id: {error.message}", field="user_id")
