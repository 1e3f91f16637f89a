"""Any mix of candidates, exclusions and filters, against a model of a few lines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving_bundle import best

from feast_recsys.v1 import recommender_service_pb2 as pb

ITEMS = [str(n) for n in range(1, 41)]
USERS = st.sampled_from(["1", "2", "3", "4", "5", "99"])
# Known and unknown ids, and integers in other forms than their plain one, which are other ids.
IDS = st.one_of(st.sampled_from(ITEMS), st.sampled_from(["0", "41", "-1", "007", "+7", "7.0", " 7", "seven", "9" * 30]))
EXAMPLES = settings(deadline=None, max_examples=60)


pytestmark = pytest.mark.parametrize("service", ["sqlite", "redis"], indirect=True)


@pytest.fixture(scope="session")
def nearness(service):
    """Retrieval scores by user."""
    return {u: service.oracle.retrieval_scores(service.oracle.user(u)) for u in ("1", "2", "3", "4", "5", "99")}


@pytest.fixture(scope="session")
def probabilities(service):
    """Probabilities by user and item, as far as they were asked for."""
    known: dict[tuple[str, str], float] = {}

    def probability(user: str, item: str) -> float:
        if (user, item) not in known:
            known[user, item] = service.oracle.probability(service.oracle.user(user), item)
        return known[user, item]

    return probability


def test_rank_gives_each_known_candidate_once_and_names_the_others(service, probabilities):
    @EXAMPLES
    @given(USERS, st.lists(IDS, max_size=30), st.integers(0, 12))
    def check(user, item_ids, top_k):
        reply = service.stub.Rank(pb.RankRequest(recommender="both", user_id=user, item_ids=item_ids, top_k=top_k))
        wanted = {i: probabilities(user, i) for i in item_ids if i in ITEMS}
        assert list(reply.item_ids) == best(wanted, top_k or len(wanted))
        assert list(reply.scores) == pytest.approx([wanted[i] for i in reply.item_ids], abs=1e-6)
        assert list(reply.unknown_item_ids) == list(dict.fromkeys(i for i in item_ids if i not in ITEMS))

    check()


def test_retrieve_gives_the_best_of_what_is_eligible(service, nearness):
    @EXAMPLES
    @given(USERS, st.integers(1, 50), st.lists(IDS, max_size=45), st.booleans(), st.sets(st.integers(-1, 4)))
    def check(user, top_k, excluded, exclude_seen, years):
        leaf = pb.ComparisonFilter(
            type=pb.COMPARISON_TYPE_NIN,
            key="catalogue:year",
            value=pb.Value(int64_list=pb.Int64List(values=sorted(years))),
        )
        reply = service.stub.Retrieve(
            pb.RetrieveRequest(
                recommender="both",
                user_id=user,
                top_k=top_k,
                exclude_item_ids=excluded,
                exclude_seen=exclude_seen,
                filter=pb.Filter(comparison=leaf),
            )
        )
        row = service.oracle.user(user)
        seen = [str(i) for name in ("seen:items", "history:items") for i in row[name] or []] if exclude_seen else []
        filtered = [i for i in ITEMS if i != "5" and int(i) % 4 in years]  # a null, item 5's, passes NIN
        wanted = best(nearness[user], top_k, [*excluded, *seen, *filtered])
        assert list(reply.item_ids) == wanted
        assert list(reply.scores) == pytest.approx([nearness[user][i] for i in wanted])

    check()
