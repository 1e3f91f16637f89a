"""What filters let pass is kept from call to call, and exclusions and seen items are taken off it each time."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.serving import counted, failure, serving, wait_for
from support.serving_bundle import best, publish_bundle
from support.serving_world import ITEMS, build_world

from feast_recsys.bundle.filters import parse_filter
from feast_recsys.cli.wire import wire_filter
from feast_recsys.v1 import recommender_service_pb2 as pb

HITS, MISSES = {"result": "hit"}, {"result": "miss"}


def filter_of(document):
    parse_filter(document)
    return wire_filter(json.dumps(document))


def leaf(kind, feature, value):
    return {"type": kind, "key": f"catalogue:{feature}", "value": value}


def facts(service):
    """What each item has, by Feast."""
    names = ["title", "year", "genres", "price", "adult"]
    references = [f"catalogue:{name}" for name in names]
    rows = service.world.online("item_id", references, service.world.item_ids)
    return {
        item: {name: row[f"catalogue:{name}"] for name in names}
        for item, row in zip(service.world.item_ids, rows, strict=True)
    }


leaves = st.one_of(
    st.builds(leaf, st.sampled_from(["gte", "lt", "eq", "ne"]), st.just("year"), st.integers(0, 3)),
    st.builds(leaf, st.sampled_from(["eq", "ne"]), st.just("genres"), st.sampled_from(["x", "y", "z", "?"])),
    st.builds(leaf, st.just("nin"), st.just("genres"), st.lists(st.sampled_from(["y", "z"]), min_size=1, max_size=2)),
    st.builds(leaf, st.sampled_from(["gt", "lte"]), st.just("price"), st.sampled_from([0.5, 2.125, 4.0])),
    st.builds(leaf, st.just("eq"), st.just("adult"), st.booleans()),
)
trees = st.recursive(
    leaves,
    lambda children: st.one_of(
        st.builds(
            lambda kind, parts: {"type": kind, "filters": parts},
            st.sampled_from(["and", "or"]),
            st.lists(children, min_size=1, max_size=3),
        ),
        st.builds(lambda part: {"type": "not", "filters": [part]}, children),
    ),
    max_leaves=4,
)


def passes(tree, item):
    """Whether an item passes, read plainly."""
    kind = tree["type"]
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(passes(part, item) for part in tree["filters"])
    if kind == "not":
        return not passes(tree["filters"][0], item)
    have, wanted = item[tree["key"].partition(":")[2]], tree["value"]
    values = [] if have is None else have if isinstance(have, list) else [have]
    among = any(value in (wanted if isinstance(wanted, list) else [wanted]) for value in values)
    if kind in ("eq", "in"):
        return among
    if kind in ("ne", "nin"):
        return not among
    order = {"gte": float.__ge__, "gt": float.__gt__, "lt": float.__lt__, "lte": float.__le__}[kind]
    return any(order(float(value), float(wanted)) for value in values)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees, st.sets(st.integers(1, ITEMS), max_size=ITEMS), st.booleans(), st.integers(1, ITEMS))
def test_min_of_k_and_eligible_items_come_back_and_no_other(service, tree, out, exclude_seen, k):
    user_id = service.world.id(1)
    scores = service.oracle.retrieval_scores(service.oracle.user(user_id))
    known = facts(service)
    excluded = {service.world.id(n) for n in out} | {service.world.id(n) for n in (1, 2, 3, 4) if exclude_seen}
    eligible = {item for item in service.world.item_ids if passes(tree, known[item])} - excluded
    request = pb.RetrieveRequest(
        recommender="both", user_id=user_id, top_k=k, filter=filter_of(tree), exclude_seen=exclude_seen,
        exclude_item_ids=[service.world.id(n) for n in sorted(out)],
    )  # fmt: skip
    for _ in range(2):
        reply = service.stub.Retrieve(request)
        assert list(reply.item_ids) == best(scores, k, [item for item in scores if item not in eligible])


def test_a_known_filter_is_counted_as_a_hit_however_it_is_written(service):
    first = leaf("in", "title", ["title 1", "title 2", "title 3"])
    second = leaf("gte", "price", 0.2)
    filters = [
        {"type": "and", "filters": [first, second]},
        {"type": "and", "filters": [second, first, second]},
        {"type": "not", "filters": [{"type": "not", "filters": [{"type": "and", "filters": [first, second]}]}]},
    ]

    def found():
        return [counted(service.server, "filters_total", **result) for result in (HITS, MISSES)]

    hits, misses = found()
    for document in filters:
        reply = service.stub.Retrieve(
            pb.RetrieveRequest(recommender="plain", user_id=service.world.id(1), filter=filter_of(document))
        )
        assert set(reply.item_ids) == {service.world.id(n) for n in (2, 3)}
    assert found() == [hits + 2, misses + 1]


def test_what_one_call_excludes_the_next_may_have(service):
    """The kept filter stays as it was."""
    year = filter_of(leaf("eq", "year", 3))
    passing = {service.world.id(n) for n in range(1, ITEMS + 1) if n % 4 == 3}
    for out in (set(), set(sorted(passing)[:3]), passing, set()):
        request = pb.RetrieveRequest(
            recommender="plain", user_id=service.world.id(1), top_k=ITEMS, filter=year, exclude_item_ids=sorted(out)
        )
        assert set(service.stub.Retrieve(request).item_ids) == passing - out


def test_ten_thousand_exclusions_are_allowed_and_one_more_is_not(service):
    many = [*service.world.item_ids[:-2], *(f"unknown-{n}" for n in range(10_000 - ITEMS + 2))]
    request = pb.RetrieveRequest(
        recommender="plain", user_id=service.world.id(1), top_k=ITEMS, exclude_item_ids=many
    )  # fmt: skip
    assert set(service.stub.Retrieve(request).item_ids) == set(service.world.item_ids[-2:])
    request.exclude_item_ids.append("one more")
    assert failure(service.stub.Retrieve, request).fields == ("exclude_item_ids",)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (leaf("eq", "nothing", 1), "filter.comparison.key"),
        (leaf("eq", "year", "x"), "filter.comparison.value"),
        ({"type": "or", "filters": [leaf("gt", "adult", True)]}, "filter.compound.filters[0].comparison.type"),
    ],
)
def test_a_wrong_filter_is_refused_each_time(service, document, field):
    request = pb.RetrieveRequest(recommender="plain", user_id=service.world.id(1), filter=filter_of(document))
    for _ in range(2):
        assert failure(service.stub.Retrieve, request).fields == (field,)


def test_filters_are_kept_while_plans_are_refreshed_and_not_beyond_their_bundle(tmp_path):
    """The second bundle holds fewer items; the year of item 5 is null."""
    world = build_world(tmp_path, serving={"refresh_seconds": 0.05})
    publish_bundle(world)
    request = pb.RetrieveRequest(recommender="plain", user_id="1", top_k=ITEMS, filter=filter_of(leaf("eq", "year", 1)))
    with serving(world) as (server, stub):
        stub.Retrieve(request)
        shelf = server._keeper._shelf
        state = shelf.held.current
        wait_for(lambda: shelf.held.current is not state, "a refresh")
        assert len(stub.Retrieve(request).item_ids) == 9
        assert counted(server, "filters_total", **HITS) == 1
        bundle_id = publish_bundle(world, seed=1, numbers=range(1, 21))
        wait_for(lambda: stub.Retrieve(request).info.bundle_id == bundle_id, "the second bundle")
        assert len(stub.Retrieve(request).item_ids) == 4
        assert counted(server, "filters_total", **MISSES) == 2


def test_nothing_is_kept_where_the_settings_say_so(tmp_path):
    world = build_world(tmp_path, serving={"filter_cache_mib": 0})
    publish_bundle(world)
    request = pb.RetrieveRequest(recommender="plain", user_id="1", top_k=ITEMS, filter=filter_of(leaf("eq", "year", 1)))
    with serving(world) as (server, stub):
        answers = [list(stub.Retrieve(request).item_ids) for _ in range(3)]
        assert counted(server, "filters_total", **MISSES) == 3
    assert answers == [answers[0]] * 3
    assert len(set(answers[0])) == 9
