"""The steps that the three calls are made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from feast_recsys.bundle.columns import Array, Column
from feast_recsys.bundle.errors import InvalidArgument, MissingFeature, OnlineStoreUnavailable, RecsysError
from feast_recsys.bundle.index import Allow, Rows, Vectors
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.bundle.tensors import to_tensors
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.eligibility import named_in_request, seen_rows, without
from feast_recsys.server.items import complete, item_columns
from feast_recsys.server.metrics import Metrics, Stages
from feast_recsys.server.reads import NOBODY_ASKED, Key, Read, StoreReads, User
from feast_recsys.server.requests import Eligibility, Info
from feast_recsys.server.state import Need, Served, ServingState, Stage

logger = logging.getLogger(__name__)

SEEN_UNKNOWN = "SEEN_ITEMS_UNKNOWN"


@dataclass
class Call:
    """One call on its way: what it works on, and what it knows of the user so far.

    Attributes:
        state: The bundle, taken once.
        served: The recommender.
        key: The user's id.
        context: Columns of one row by feature, from the request.
        deadline: When to stop.
        stages: Where times go.
        metrics: Where defaults are counted.
        user: What the store said; nothing before `read_user`.
        columns: One row by feature: all that is known of the user; empty before `read_user`.
    """

    state: ServingState
    served: Served
    key: Key
    context: Mapping[str, Column]
    deadline: Deadline
    stages: Stages
    metrics: Metrics
    user: User = NOBODY_ASKED
    columns: dict[str, Column] = field(default_factory=dict)

    @property
    def snapshot(self) -> Snapshot:
        """The catalogue."""
        return self.state.bundle.snapshot

    def begin_user(self, reads: StoreReads, need: Need) -> Read:
        """Begins to read the user."""
        return reads.begin(self.served.sources[need], self.key)

    def read_user(self, read: Read) -> None:
        """Waits for the user and puts together what is known of them: the request's word counts over the store's.

        Raises:
            OnlineStoreUnavailable, StaleFeature, DeadlineExceeded: see Read.result.
            InvalidArgument: the id can't be a key of the store.
        """
        try:
            self.user = read.result(self.deadline)
        except InvalidArgument as error:
            raise wrong_user_id(error) from error
        self.columns = {**self.served.unset, **self.user.columns, **self.context}
        if self.served.takes_user_id:
            key = self.state.user_key
            self.columns[f"entity:{key.join_key}"] = complete(key.dtype, np.array([self.key], key.dtype.numpy))
        for reference in read.source.inputs if read.source is not None else ():
            self.metrics.defaults(reference, self.columns[reference])
        self.stages.done("user")

    def allowed(self, eligibility: Eligibility) -> Allow | None:
        """[n] which items the request lets come back; None for all.

        Raises:
            InvalidArgument: the filter is wrong.
        """
        allow = named_in_request(eligibility, self.snapshot)
        self.stages.done("filter")
        return allow

    def search(self, k: int, allow: Allow | None, exclude_seen: bool) -> tuple[Rows, Vectors]:
        """The k best items: rows and scores, best first."""
        vectors = self._run(self.served.query, self._user_tensors(self.served.query))
        self.stages.done("encode")
        if exclude_seen:
            lists = [self.columns[reference] for reference in self.served.settings.seen]
            allow = without(allow, seen_rows(lists, self.snapshot), len(self.snapshot))
        rows, scores = self.served.index.search(vectors, k, allow)
        self.stages.done("search")
        return rows[0], scores[0]

    def item_tensors(self, stage: Stage, rows: Rows, given: Mapping[str, Column]) -> dict[str, Array]:
        """The ranker's inputs of some items: given by the request, else from the catalogue."""
        columns = item_columns(stage.item_inputs, self.snapshot, rows, given)
        for reference in {i.feature for i in stage.item_inputs if i.from_store}:
            self.metrics.defaults(reference, columns[reference])
        tensors = to_tensors(columns, stage.item_inputs)
        self.stages.done("gather")
        return tensors

    def rank(self, stage: Stage, items: Mapping[str, Array], n: int) -> Vectors:
        """[n] float32 probabilities of n items."""
        scores = self._run(stage, {**self._user_tensors(stage), **items}) if n else np.empty(0, np.float32)
        self.stages.done("rank")
        return scores

    def info(self, exclude_seen: bool = False) -> Info:
        """How the answer came about."""
        reasons = self.user.degraded
        if exclude_seen and reasons and not all(r in self.context for r in self.served.settings.seen):
            reasons = (*reasons, SEEN_UNKNOWN)
        self.metrics.degraded(reasons)
        manifest = self.state.bundle.manifest
        return Info(manifest.bundle_id, manifest.as_of, self.user.status, reasons)

    def _user_tensors(self, stage: Stage) -> dict[str, Array]:
        try:
            return to_tensors(self.columns, stage.user_inputs)
        except MissingFeature as error:
            if self.user.degraded:
                raise OnlineStoreUnavailable(f"{error.message}, and the online store can't be read") from error
            raise

    def _run(self, stage: Stage, tensors: Mapping[str, Array]) -> Vectors:
        result = stage.graph.run(tensors)
        if not np.isfinite(result).all():
            where = f"the {stage.graph.graph.role.value} of recommender {self.served.name!r}"
            logger.error("%s gave NaN or infinity for user %r (bundle %s)", where, self.key, self.state.bundle.id)
            raise RecsysError(f"{where} gave NaN or infinity; its owner must mend it")
        return result


def wrong_user_id(error: InvalidArgument) -> InvalidArgument:
    """The error of a key, in terms of the request."""
    return InvalidArgument(f"user_id: {error.message}", field="user_id")
