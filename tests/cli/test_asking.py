"""`retrieve`, `rank` and `recommend` against a server: what they ask, what they show, and what is wrong usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from click.testing import CliRunner, Result
from support.serving import serving
from support.serving_bundle import publish_bundle
from support.serving_world import ITEMS, World, build_world

from feast_recsys.cli.main import cli


@dataclass(frozen=True)
class Place:
    world: World
    address: str

    def ask(self, command: str, *options: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(
            cli,
            ["-c", str(self.world.repo.path), command, "-r", "both", "--address", self.address, "--timeout", "30",
             *options],
        )  # fmt: skip
        assert exit_code == (result.exit_code if isinstance(result.exception, SystemExit | None) else 1)
        return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    world = build_world(tmp_path_factory.mktemp("world"))
    publish_bundle(world)
    with serving(world) as (server, _):
        yield Place(world, server.address)


def items(result: Result) -> list[str]:
    return [item["item_id"] for item in json.loads(result.stdout)["items"]]


@pytest.mark.parametrize("kind", ["in", "nin"])
def test_a_list_of_truth_values_filters(place: Place, kind: str) -> None:
    condition = json.dumps({"type": kind, "key": "catalogue:adult", "value": [True]})
    found = place.ask("retrieve", "-u", "1", "-k", str(ITEMS), "--include-seen", "--json", "--filter", condition)
    assert sorted(map(int, items(found))) == [n for n in range(1, ITEMS + 1) if (n % 5 == 0) is (kind == "in")]


def test_unknown_seed_items_are_named(place: Place) -> None:
    options = ("--like", "3", "--like", "nope", "--like", "007", "-k", "2")
    shown = place.ask("retrieve", *options)
    assert "not in the catalogue: nope, 007" in shown.stderr
    told = place.ask("retrieve", *options, "--json")
    assert json.loads(told.stdout)["unknown_item_ids"] == ["nope", "007"]
    assert len(items(told)) == 2
    known = place.ask("retrieve", "--like", "3")
    assert not known.stderr
    assert json.loads(place.ask("retrieve", "-u", "1", "--json").stdout)["unknown_item_ids"] == []


def test_unknown_candidates_are_named(place: Place) -> None:
    shown = place.ask("rank", "-u", "1", "3", "nope")
    assert "not in the catalogue: nope" in shown.stderr


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("retrieve", ("-k", "99999999999"), "'--top-k': 99999999999 is not in the range"),
        ("rank", ("-k", "2147483648", "3"), "'--top-k': 2147483648 is not in the range"),
        ("recommend", ("--candidates", "99999999999"), "'--candidates': 99999999999 is not in the range"),
        ("recommend", ("--cap", "catalogue:year=99999999999"), "--cap 'catalogue:year=99999999999': N has more than 9"),
        ("recommend", ("--context", "profile:age=9223372036854775808"), "9223372036854775808 is beyond int64"),
        (
            "recommend",
            ("--filter", '{"type": "lt", "key": "catalogue:year", "value": 9223372036854775808}'),
            "--filter: filter.value: 9223372036854775808 is beyond int64",
        ),
    ],
)
def test_a_number_that_the_wire_can_not_carry_is_wrong_usage(place, command, options, says) -> None:
    refused = place.ask(command, "-u", "1", *options, exit_code=2)
    assert says in " ".join(refused.stderr.split())


def test_a_bound_beyond_int64_with_a_decimal_point_is_a_float(place: Place) -> None:
    for kind, count in (("lt", ITEMS - 1), ("gt", 0)):  # the year of one item is null
        condition = f'{{"type": "{kind}", "key": "catalogue:year", "value": 9223372036854775808.0}}'
        found = place.ask("retrieve", "-u", "1", "-k", str(ITEMS), "--include-seen", "--json", "--filter", condition)
        assert len(items(found)) == count


def test_the_servers_refusal_says_what_to_send(place: Place) -> None:
    for options, says in (
        (("-u", "01"), "user_id '01' is not a whole number in plain digits"),
        (("-u", "1", "-k", "1001"), "limit is 1000 (serving.max_top_k in its settings)"),
        (("-u", "1", "--filter", '{"type": "eq", "key": "year", "value": 1}'), "did you mean 'catalogue:year'?"),
        (("-u", "1", "--filter", '{"type": "eq", "key": "catalogue:year", "value": "1"}'), "(int64_value)"),
    ):
        assert says in str(place.ask("retrieve", *options, exit_code=1).exception)
