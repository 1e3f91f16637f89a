"""Retrieve, Rank and Recommend, without a transport: values in, values out, errors of `bundle.errors`.

A call takes the serving state once and works on that to its end, whatever is swapped meanwhile. The user's read is
begun before the call looks at what the request says of items, and waited for afterwards.
"""

from __future__ import annotations

import numpy as np

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.features.settings import Serving
from feast_recsys.server.call import Call, wrong_user_id
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.items import best_first, candidates, complete, pick
from feast_recsys.server.limits import check_size, count
from feast_recsys.server.metrics import Metrics, Stages
from feast_recsys.server.overrides import candidate_columns, context_columns, further_ids
from feast_recsys.server.prepare import RETRIEVAL_SCORE
from feast_recsys.server.reads import StoreReads
from feast_recsys.server.requests import (
    Eligibility,
    Query,
    Ranked,
    RankQuery,
    Recommended,
    RecommendQuery,
    Retrieved,
    RetrieveQuery,
)
from feast_recsys.server.state import Need, Served, Shelf


class Engine:
    """Answers calls, many threads at once. For what the errors mean see `bundle.errors`.

    Args:
        shelf: Holds the bundles.
        reads: Reads the online store.
        serving: Limits.
        metrics: Where times and defaults are counted.
    """

    def __init__(self, shelf: Shelf, reads: StoreReads, serving: Serving, metrics: Metrics) -> None:
        self._shelf, self._reads, self._serving, self._metrics = shelf, reads, serving, metrics

    def recommender_name(self, name: str) -> str:
        """The recommender that a request means by this name; empty if there is none such. For metrics."""
        state = self._shelf.held.current
        known = list(state.recommenders) if state is not None else []
        return name if name in known else known[0] if not name and len(known) == 1 else ""

    def retrieve(self, query: RetrieveQuery, deadline: Deadline) -> Retrieved:
        """The items nearest to the user's query vector, or to the seed items of the request.

        Raises:
            RecsysError: the request is wrong, or it can't be answered now.
        """
        with self._open("Retrieve", query, deadline) as call:
            limit = self._serving.max_top_k
            k = count(query.top_k, default=call.served.settings.candidates, limit=limit, field="top_k")
            if query.seed_item_ids:
                return self._retrieve_like(call, query, k)
            exclude_seen = self._check(query.eligibility, call.served)
            call.begin_user(Need(query=True, rank=False, seen=exclude_seen))
            allow = call.allowed(query.eligibility)
            call.read_user()
            rows, scores = call.search(k, allow, exclude_seen)
            return Retrieved(call.snapshot.ids_of(rows), scores, call.info(exclude_seen))

    def _retrieve_like(self, call: Call, query: RetrieveQuery, k: int) -> Retrieved:
        """The items most like the seed items. The user, if there is one, only says what was seen."""
        check_size(query.seed_item_ids, limit=self._serving.max_candidates, field="seed_item_ids")
        exclude_seen = self._check(query.eligibility, call.served)
        if call.key is None:
            if query.eligibility.exclude_seen:
                raise InvalidArgument("exclude_seen: nobody has seen anything without a user_id", field="exclude_seen")
            exclude_seen = False
        if exclude_seen:
            call.begin_user(Need(query=False, rank=False, seen=True))
        seeds = candidates(query.seed_item_ids, call.snapshot)
        allow = call.allowed(query.eligibility)
        if exclude_seen:
            call.read_user()
        if not len(seeds.rows):
            return Retrieved([], np.empty(0, np.float32), call.info(exclude_seen), seeds.unknown)
        rows, scores = call.search_like(seeds.rows, k, allow, exclude_seen)
        return Retrieved(call.snapshot.ids_of(rows), scores, call.info(exclude_seen), seeds.unknown)

    def rank(self, query: RankQuery, deadline: Deadline) -> Ranked:
        """The given items in order of probability; equal ones in the order of the request.

        Raises:
            RecsysError: the request is wrong, or it can't be answered now.
        """
        with self._open("Rank", query, deadline) as call:
            ranker, n = call.served.ranking(), len(query.item_ids)
            check_size(query.item_ids, limit=self._serving.max_candidates, field="item_ids")
            k = count(query.top_k, default=n, limit=self._serving.max_candidates, field="top_k")
            call.begin_user(Need(query=False, rank=n > 0, seen=False))
            found = candidates(query.item_ids, call.snapshot)
            given = candidate_columns(query.candidate_features, call.served.candidate, n, found.positions)
            call.stages.done("candidates")
            items = call.gather(ranker, found.rows, call.fresh(found.rows, given))
            call.read_user()
            scores = call.rank(ranker, items)
            order = best_first(scores, k)
            ids = pick(query.item_ids, found.positions[order])
            return Ranked(ids, scores[order], found.unknown, call.info())

    def recommend(self, query: RecommendQuery, deadline: Deadline) -> Recommended:
        """Both stages on one bundle and one read of the user.

        Raises:
            RecsysError: the request is wrong, or it can't be answered now.
        """
        with self._open("Recommend", query, deadline) as call:
            ranker, settings, serving = call.served.ranking(), call.served.settings, self._serving
            k = count(query.top_k, default=settings.top_k, limit=serving.max_top_k, field="top_k")
            width = count(
                query.candidate_count,
                default=settings.candidates,
                limit=serving.max_candidates,
                field="candidate_count",
            )
            exclude_seen = self._check(query.eligibility, call.served)
            call.begin_user(Need(query=True, rank=True, seen=exclude_seen))
            allow = call.allowed(query.eligibility)
            call.read_user()
            rows, nearness = call.search(width, allow, exclude_seen)
            given = call.fresh(rows, {RETRIEVAL_SCORE: complete(DType.FLOAT32, nearness)})
            scores = call.rank(ranker, call.gather(ranker, rows, given))
            order = best_first(scores, k)
            ids = call.snapshot.ids_of(rows[order])
            return Recommended(ids, scores[order], nearness[order], call.info(exclude_seen))

    def _open(self, rpc: str, query: Query, deadline: Deadline) -> Call:
        """What every call begins with: bundle, recommender, ids and context."""
        stages = Stages(self._metrics, rpc, deadline)
        state = self._shelf.held.choose(query.bundle_id)
        served = state.recommender(query.recommender)
        key = None
        if query.user_id or not (isinstance(query, RetrieveQuery) and query.seed_item_ids):
            try:
                key = state.user_key.parse(query.user_id)
            except InvalidArgument as error:
                raise wrong_user_id(error) from error
        ids = further_ids(query.entity_keys, served.entity_keys)
        if key is not None:
            ids = {state.user_key.join_key: key, **ids}
        context = context_columns(query.context, served.context)
        stages.done("request")
        return Call(state, served, key, ids, query.context, context, deadline, stages, self._metrics, self._reads)

    def _check(self, eligibility: Eligibility, served: Served) -> bool:
        """Whether to leave out seen items; refuses what can't be done."""
        check_size(eligibility.exclude_item_ids, limit=self._serving.max_exclusions, field="exclude_item_ids")
        if eligibility.exclude_seen and not served.settings.seen:
            raise InvalidArgument(
                f"exclude_seen: recommender {served.name!r} names no `seen` features, so nothing is known as seen",
                field="exclude_seen",
            )
        return served.settings.exclude_seen if eligibility.exclude_seen is None else eligibility.exclude_seen
