"""Reads of whole feature services against `get_online_features`: every type, key and name, on SQLite and Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.conformance_world import SHOPS, STALE, USERS, conformance_world
from support.oracle import Read, Rows, assert_as_feast, assert_same, read_one_by_one, read_together

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.features.plan import compile_service_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.features.user_reader import user_reader

INT64 = st.integers(-(2**63), 2**63 - 1)
user_ids = st.one_of(st.sampled_from(USERS), INT64)
shop_ids = st.one_of(st.sampled_from(SHOPS), st.text())
everyone = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> dict[str, Repo]:
    return {
        name: conformance_world(tmp_path_factory.mktemp(name), address)
        for name, address in (("sqlite", None), ("redis", redis_server))
    }


@pytest.fixture(params=["sqlite", "redis"])
def repo(request: pytest.FixtureRequest, repos: dict[str, Repo]) -> Repo:
    return repos[request.param]


@pytest.fixture(params=[read_together, read_one_by_one], ids=["together", "one by one"])
def read(request: pytest.FixtureRequest) -> Read:
    way: Read = request.param
    return way


def check(repo: Repo, service: str, rows: Rows, read: Read) -> None:
    plan = compile_service_plan(repo, service)
    columns = read(repo, plan, rows)
    assert tuple(columns) == plan.references
    assert_as_feast(repo, repo.store.get_feature_service(service), rows, columns, STALE)


@pytest.mark.parametrize(
    ("users", "shops"),
    [
        ([1], ["north"]),
        ([1, 2, 3, 4, -9], ["north", "north", "", "ž 🐎", "ž 🐎"]),
        ([3, 1, 1, 999, 3, 1], ["north", "", "", "north", "elsewhere", "north"]),
        ([2**63 - 1, -(2**63), 0], ["a", "b", "c"]),
        (["1", "-9", "777"], ["north", "ž 🐎", "north"]),
    ],
    ids=["one", "known", "repeated and unsorted", "extreme", "text"],
)
def test_all_views_of_a_service(repo: Repo, read: Read, users: list[Any], shops: list[str]) -> None:
    check(repo, "everything", {"user_id": users, "shop_id": shops}, read)


@everyone
@given(rows=st.lists(st.tuples(user_ids, shop_ids), min_size=1, max_size=8))
def test_any_composite_keys(repo: Repo, read: Read, rows: list[tuple[int, str]]) -> None:
    users, shops = zip(*rows, strict=True)
    check(repo, "everything", {"user_id": list(users), "shop_id": list(shops)}, read)


@everyone
@given(rows=st.lists(st.tuples(user_ids, user_ids, user_ids, shop_ids), min_size=1, max_size=6))
def test_aliases_and_renamed_join_keys(repo: Repo, read: Read, rows: list[tuple[int, int, int, str]]) -> None:
    own, friends, rivals, places = (list(column) for column in zip(*rows, strict=True))
    check(repo, "aliased", {"user_id": own, "friend_id": friends, "rival_id": rivals, "place": places}, read)


def test_the_plan_tells_what_a_row_must_name(repo: Repo) -> None:
    plan = compile_service_plan(repo, "aliased")
    assert {column: (key.entity, key.dtype.value) for column, key in plan.join_keys.items()} == {
        "user_id": ("user", "int64"),
        "friend_id": ("user", "int64"),
        "rival_id": ("user", "int64"),
        "place": ("shop", "string"),
    }
    assert plan.references[-2:] == ("there:times", "there:bought")
    assert [view.view for view in plan.views] == ["typed", "typed", "typed", "visits"]


def test_columns_may_come_in_any_order_and_more_of_them(repo: Repo, read: Read) -> None:
    """Feast itself reads a renamed view by whichever of its two columns comes last; ours is the renamed one."""
    plan = compile_service_plan(repo, "aliased")
    rows = {"user_id": [1], "friend_id": [2], "rival_id": [-9], "place": ["north"]}
    turned = dict(reversed(rows.items())) | {"unheard_of": [None]}
    assert_same(read(repo, plan, turned), read(repo, plan, rows))


@pytest.mark.parametrize("lacking", ["user_id", "friend_id", "rival_id", "place"])
def test_a_missing_join_key_is_named(repo: Repo, read: Read, lacking: str) -> None:
    rows: dict[str, list[Any]] = {"user_id": [1], "friend_id": [2], "rival_id": [3], "place": ["north"]}
    del rows[lacking]
    with pytest.raises(InvalidArgument, match=f"lacks {lacking}") as caught:
        read(repo, compile_service_plan(repo, "aliased"), rows)
    assert caught.value.field == lacking


@pytest.mark.parametrize("wrong", [None, 1.5, "x", True, 2**63])
def test_a_key_of_another_type_is_named(repo: Repo, read: Read, wrong: Any) -> None:
    rows = {"user_id": [1], "friend_id": [wrong], "rival_id": [3], "place": ["north"]}
    with pytest.raises(InvalidArgument, match="friend_id") as caught:
        read(repo, compile_service_plan(repo, "aliased"), rows)
    assert caught.value.field == "friend_id"


def test_text_that_is_no_unicode_is_refused(repo: Repo, read: Read) -> None:
    rows = {"user_id": [1], "shop_id": ["\ud800"]}
    with pytest.raises(InvalidArgument, match="shop_id") as caught:
        read(repo, compile_service_plan(repo, "everything"), rows)
    assert caught.value.field == "shop_id"


def test_columns_of_different_lengths_are_refused(repo: Repo) -> None:
    reader = OnlineReader(repo, compile_service_plan(repo, "everything"))
    for rows in ({"user_id": [1, 2], "shop_id": ["north"]}, {}):
        with pytest.raises(InvalidArgument, match="length"):
            reader.read(rows)
    with pytest.raises(InvalidArgument, match="by join key; the plan has user_id, shop_id"):
        reader.read([1])


def test_no_rows_give_empty_columns(repo: Repo) -> None:
    plan = compile_service_plan(repo, "everything")
    columns = OnlineReader(repo, plan).read({"user_id": [], "shop_id": []})
    assert {len(column) for column in columns.values()} == {0}


def test_abandoned_reads_do_no_harm(repo: Repo) -> None:
    plan = compile_service_plan(repo, "everything")
    reader = user_reader(repo, plan)
    assert reader is not None
    expected = read_together(repo, plan, {"user_id": [2], "shop_id": ["north"]})
    for _ in range(20):
        reader.begin({"user_id": 1, "shop_id": ""}).abandon()
        del reader  # dropped without a word
        reader = user_reader(repo, plan)
        assert reader is not None
        reader.begin({"user_id": 3, "shop_id": ""})
        assert_same(reader.begin({"user_id": 2, "shop_id": "north"}).result(5.0), expected)


@pytest.mark.parametrize("options", ["decode_responses=true", "protocol=3"])
def test_replies_to_several_commands_whatever_the_client_makes_of_them(
    repos: dict[str, Repo], tmp_path: Path, options: str
) -> None:
    plain = repos["redis"]
    document = yaml.safe_load((plain.path / "feature_store.yaml").read_text())
    document["online_store"]["connection_string"] += f",{options}"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(document))
    other = open_repo(plain.path, tmp_path / "other.yaml")
    rows = {"user_id": [1, 2, 999], "shop_id": ["north", "", "x"]}
    plans = [compile_service_plan(repo, "everything") for repo in (plain, other)]
    assert_same(read_one_by_one(other, plans[1], rows), read_together(plain, plans[0], rows))
