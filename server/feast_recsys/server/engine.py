"""Retrieve, Rank and Recommend, without a transport: values in, values out, errors of `bundle.errors`.

A call takes the serving state once and works on that to its end, whatever is swapped meanwhile. The user's read is
begun before the call looks at what the request says of items, and waited for afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.merging import Merged
from feast_recsys.features.serving_settings import Serving
from feast_recsys.server.arranging import arranged, with_pinned
from feast_recsys.server.call import SEEDS_WITHOUT_DIRECTION, Call
from feast_recsys.server.choosing import like_seeds, usual
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.items import candidates, pick, without_rows
from feast_recsys.server.limits import Limits
from feast_recsys.server.metrics import Metrics, Stages
from feast_recsys.server.overrides import candidate_columns, context_columns, further_ids
from feast_recsys.server.prepare import RETRIEVAL_SCORE, RETRIEVAL_SOURCE
from feast_recsys.server.reads import StoreReads
from feast_recsys.server.requests import (
    BatchRetrieveQuery,
    Eligibility,
    Info,
    Query,
    Ranked,
    RankQuery,
    Recommended,
    RecommendQuery,
    Reranking,
    Retrieved,
    RetrieveQuery,
)
from feast_recsys.server.reranking import check
from feast_recsys.server.retrieval import Retrieval
from feast_recsys.server.sources import Source
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
        self._shelf, self._reads, self._metrics = shelf, reads, metrics
        self._limits = Limits(serving)

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
        keys = () if query.seed_item_ids and not query.user_id else (query.user_id,)
        with self._open("Retrieve", query, deadline, keys) as call:
            if query.seed_item_ids:
                return self._retrieve_like(call, query)
            return self._retrieve(call, query)[0]

    def batch_retrieve(self, query: BatchRetrieveQuery, deadline: Deadline) -> list[Retrieved]:
        """What `retrieve` answers each of the users.

        Raises:
            RecsysError: the request is wrong, or it can't be answered now; a wrong user id says which.
        """
        self._limits.check_size(query.user_ids, "max_batch", field="user_ids")
        with self._open("BatchRetrieve", query.each, deadline, query.user_ids) as call:
            return self._retrieve(call, query.each)

    def _retrieve(self, call: Call, query: RetrieveQuery) -> list[Retrieved]:
        """The answer for each of the call's users."""
        k = self._top_k(query, call.served)
        sources = usual(query.sources, call.served)
        exclude_seen = self._check(query.eligibility, call.served)
        call.begin_users(Need(query=True, rank=False, seen=exclude_seen))
        allow = call.allowed(query.eligibility)
        if not call.users:
            return []
        call.read_users()
        merged = Retrieval(call, sources, k, allow, exclude_seen).candidates()
        return [_retrieved(call, sources, one, call.info(exclude_seen, user)) for user, one in enumerate(merged)]

    def _retrieve_like(self, call: Call, query: RetrieveQuery) -> Retrieved:
        """The items most like the seed items. The user, if there is one, only says what was seen."""
        k = self._top_k(query, call.served)
        sources = like_seeds(query.sources, call.served)
        self._limits.check_size(query.seed_item_ids, "max_candidates", field="seed_item_ids")
        exclude_seen = self._check(query.eligibility, call.served)
        if not call.users:
            if query.eligibility.exclude_seen:
                raise InvalidArgument("exclude_seen: nobody has seen anything without a user_id", field="exclude_seen")
            exclude_seen = False
        if exclude_seen:
            call.begin_users(Need(query=False, rank=False, seen=True))
        seeds = candidates(query.seed_item_ids, call.snapshot)
        allow = call.allowed(query.eligibility)
        if exclude_seen:
            call.read_users()
        retrieval = Retrieval(call, sources, k, allow, exclude_seen, seeds.rows)
        merged = retrieval.candidates()[0]
        if retrieval.lacks_direction(merged):
            call.reasons.append(SEEDS_WITHOUT_DIRECTION)
        return _retrieved(call, sources, merged, call.info(exclude_seen), seeds.unknown)

    def _top_k(self, query: RetrieveQuery, served: Served) -> int:
        default = served.settings.candidates
        return self._limits.count(query.top_k, "max_top_k", default=default, field="top_k")

    def rank(self, query: RankQuery, deadline: Deadline) -> Ranked:
        """The given items in order of probability; equal ones in the order of the request.

        Raises:
            RecsysError: the request is wrong, or it can't be answered now.
        """
        with self._open("Rank", query, deadline, (query.user_id,)) as call:
            ranker, n = call.served.ranking(), len(query.item_ids)
            self._limits.check_size(query.item_ids, "max_candidates", field="item_ids")
            k = self._limits.count(query.top_k, "max_candidates", default=n, field="top_k")
            rules = self._rules(query.reranking, call)
            call.begin_users(Need(query=False, rank=n > 0, seen=False))
            found = candidates(query.item_ids, call.snapshot)
            if rules.blocked_item_ids:
                found = without_rows(found, call.snapshot.rows(rules.blocked_item_ids))
            given = candidate_columns(query.candidate_features, call.served.candidate, n, found.positions)
            call.stages.done("candidates")
            items = call.gather(ranker, found.rows, call.fresh(found.rows, given))
            call.read_users()
            scores = call.rank(ranker, items)
            order = arranged(call, rules, found.rows, scores, k)
            ids = pick(query.item_ids, found.positions[order])
            return Ranked(ids, scores[order], found.unknown, call.info())

    def recommend(self, query: RecommendQuery, deadline: Deadline) -> Recommended:
        """Both stages on one bundle and one read of the user.

        Raises:
            RecsysError: the request is wrong, or it can't be answered now.
        """
        with self._open("Recommend", query, deadline, (query.user_id,)) as call:
            ranker, settings = call.served.ranking(), call.served.settings
            k = self._limits.count(query.top_k, "max_top_k", "max_candidates", default=settings.top_k, field="top_k")
            default = max(settings.candidates, k)
            width = self._limits.count(
                query.candidate_count, "max_candidates", default=default, field="candidate_count"
            )
            rules = self._rules(query.reranking, call)
            sources = usual(query.sources, call.served)
            exclude_seen = self._check(query.eligibility, call.served)
            call.begin_users(Need(query=True, rank=True, seen=exclude_seen))
            allow = call.allowed(query.eligibility, rules.blocked_item_ids)
            call.read_users()
            merged = Retrieval(call, sources, width, allow, exclude_seen).candidates()[0]
            rows, given = with_pinned(call, rules, merged.rows, merged.scores, allow, exclude_seen)
            names = [*_names(sources, merged), *[""] * (len(rows) - len(merged))]
            columns = call.fresh(rows, {RETRIEVAL_SCORE: given, **_source_column(names, call.served)})
            scores = call.rank(ranker, call.gather(ranker, rows, columns))
            order = arranged(call, rules, rows, scores, min(k, width))
            ids = call.snapshot.ids_of(rows[order])
            return Recommended(ids, scores[order], given.values[order], pick(names, order), call.info(exclude_seen))

    def _open(self, rpc: str, query: Query, deadline: Deadline, user_ids: Sequence[str]) -> Call:
        """What every call begins with: bundle, recommender, ids and context."""
        stages = Stages(self._metrics, rpc, deadline)
        state = self._shelf.held.choose(query.bundle_id)
        served = state.recommender(query.recommender)
        many = rpc == "BatchRetrieve"
        keys = [state.user_key.parse(u, f"user_ids[{at}]" if many else "user_id") for at, u in enumerate(user_ids)]
        ids = further_ids(query.entity_keys, served.entity_keys)
        context = context_columns(query.context, served.context)
        stages.done("request")
        return Call(state, served, keys, ids, query.context, context, deadline, stages, self._metrics, self._reads)

    def _rules(self, asked: Reranking | None, call: Call) -> Reranking:
        """The request's reranking, else the recommender's, whose blocked items stay out of either."""
        if asked is None:
            return call.served.reranking
        self._limits.check_size(asked.pinned_item_ids, "max_top_k", field="reranking.pinned_item_ids")
        self._limits.check_size(asked.blocked_item_ids, "max_exclusions", field="reranking.blocked_item_ids")
        check(asked, call.snapshot)
        blocked = call.served.reranking.blocked_item_ids
        return replace(asked, blocked_item_ids=(*asked.blocked_item_ids, *blocked)) if blocked else asked

    def _check(self, eligibility: Eligibility, served: Served) -> bool:
        """Whether to leave out seen items; refuses what can't be done."""
        self._limits.check_size(eligibility.exclude_item_ids, "max_exclusions", field="exclude_item_ids")
        if eligibility.exclude_seen and not served.settings.seen:
            raise InvalidArgument(
                f"exclude_seen: recommender {served.name!r} names no `seen` features, so nothing is known as seen",
                field="exclude_seen",
            )
        return served.settings.exclude_seen if eligibility.exclude_seen is None else eligibility.exclude_seen


def _retrieved(
    call: Call, sources: Sequence[Source], merged: Merged, info: Info, unknown: Sequence[str] = ()
) -> Retrieved:
    ids = call.snapshot.ids_of(merged.rows)
    return Retrieved(ids, merged.scores, _names(sources, merged), info, list(unknown))


def _names(sources: Sequence[Source], merged: Merged) -> list[str]:
    if len(sources) == 1:
        return [sources[0].name] * len(merged)
    return [sources[at].name for at in merged.sources.tolist()]


def _source_column(names: Sequence[str], served: Served) -> dict[str, Column]:
    """The names of candidates' sources, null for those of none, where the ranker takes them."""
    if all(slot.feature != RETRIEVAL_SOURCE for slot in served.candidate.values()):
        return {}
    return {RETRIEVAL_SOURCE: Column.of(DType.STRING, [name or None for name in names])}
