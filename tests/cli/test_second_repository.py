"""Another repository, with other names and ids of either type, goes the whole way through the same commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.shop import Shop, build_shop

from feast_recsys.bundle.columns import DType
from feast_recsys.cli.main import cli

STRANGER = {DType.STRING: "nobody", DType.INT64: "-5"}


@pytest.fixture(scope="module", params=[DType.STRING, DType.INT64], ids=["string ids", "integer ids"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop that was trained, exported and materialized by the commands."""
    built = build_shop(tmp_path_factory.mktemp("shop"), request.param)
    for command in ("train", "export", "materialize"):
        invoke(built, command)
    return built


@pytest.fixture(scope="module")
def address(shop: Shop) -> Iterator[str]:
    """A server started by `feast-recsys serve` on a port of its own."""
    program = str(Path(sys.executable).parent / "feast-recsys")
    command = [program, "-c", str(shop.folder), "serve", "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        target = process.stdout.readline().removeprefix("listening on ").strip()
        wait_until_serving(target)
        yield target
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def wait_until_serving(target: str) -> None:
    """Health says SERVING once the bundle is loaded; Watch tells of each change."""
    with grpc.insecure_channel(target) as channel:
        for reply in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60):
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return


def invoke(shop: Shop, *arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["-c", str(shop.folder), *arguments])
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result.output if exit_code else result.stdout


def ask(shop: Shop, address: str, command: str, user: str, *more: str) -> dict[str, Any]:
    options = ["--user", user, "--address", address, "--json", "--timeout", "30"]
    document: dict[str, Any] = json.loads(invoke(shop, command, *options, *more))
    return document


def test_recommends_what_was_planted(shop: Shop, address: str) -> None:
    hits, total = 0, 0
    for user in list(shop.section_of_customer)[::10]:
        answer = ask(shop, address, "recommend", user, "--top-k", "3")
        assert answer["user_status"] == "KNOWN"
        assert len(answer["items"]) == 3
        hits += sum(shop.section_of_product[i["item_id"]] == shop.section_of_customer[user] for i in answer["items"])
        total += 3
    # By chance it would be one in four.
    assert hits > total * 0.6


def test_titles_probabilities_and_seen_items(shop: Shop, address: str) -> None:
    user = next(iter(shop.section_of_customer))
    answer = ask(shop, address, "recommend", user, "--top-k", "10")
    for item in answer["items"]:
        assert item["title"].startswith(shop.section_of_product[item["item_id"]])
        assert 0.0 <= item["probability"] <= 1.0
    everything = ask(shop, address, "retrieve", user, "--top-k", "60", "--include-seen")
    unseen = ask(shop, address, "retrieve", user, "--top-k", "60")
    gone = {i["item_id"] for i in everything["items"]} - {i["item_id"] for i in unseen["items"]}
    assert gone
    assert gone <= shop.bought[user]


def test_filter_and_rank_piped(shop: Shop, address: str) -> None:
    user = list(shop.section_of_customer)[1]
    condition = json.dumps({"type": "eq", "key": "product_profile:section", "value": "tools"})
    found = ask(shop, address, "retrieve", user, "--filter", condition, "--include-seen", "--top-k", "60")
    ids = [i["item_id"] for i in found["items"]]
    assert {shop.section_of_product[i] for i in ids} == {"tools"}
    assert len(ids) == 15
    options = ["-c", str(shop.folder), "rank", "--user", user, "--address", address, "--json", "--timeout", "30", "-"]
    piped = CliRunner().invoke(cli, options, input=json.dumps(found))
    assert piped.exit_code == 0, piped.output
    assert {i["item_id"] for i in json.loads(piped.stdout)["items"]} == set(ids)


def test_caps_pinned_and_blocked_items(shop: Shop, address: str) -> None:
    user = list(shop.section_of_customer)[2]
    wide = ("--top-k", "12", "--candidates", "60", "--include-seen")
    plain = [i["item_id"] for i in ask(shop, address, "recommend", user, *wide)["items"]]
    one_each = ("--cap", "product_profile:section=1")
    capped = [i["item_id"] for i in ask(shop, address, "recommend", user, *wide, *one_each)["items"]]
    assert sorted(shop.section_of_product[i] for i in capped) == sorted(set(shop.section_of_product.values()))
    ranked = [i["item_id"] for i in ask(shop, address, "rank", user, *plain, *one_each)["items"]]
    assert len(ranked) == len({shop.section_of_product[i] for i in plain})
    moved = ("--pin", plain[5], "--block", plain[0], "--relevance-weight", "1")
    answer = [i["item_id"] for i in ask(shop, address, "recommend", user, *wide, *moved)["items"]]
    assert answer[:11] == [plain[5], *plain[1:5], *plain[6:]]
    refused = invoke(shop, "rank", "--user", user, "--address", address, *plain, "--cap", "section", exit_code=2)
    assert "--cap 'section' must read VIEW:FEATURE=N" in refused


def test_a_stranger_is_served(shop: Shop, address: str) -> None:
    stranger = STRANGER[_ids(shop)]
    answer = ask(shop, address, "recommend", stranger)
    assert answer["user_status"] == "UNKNOWN"
    assert len(answer["items"]) == 10


def test_doctor_finds_nothing_wrong(shop: Shop) -> None:
    findings = json.loads(invoke(shop, "doctor", "--json"))
    assert [f for f in findings if f["severity"] == "error"] == []


def test_nothing_new_publishes_nothing(shop: Shop) -> None:
    assert "nothing new" in invoke(shop, "materialize")


def _ids(shop: Shop) -> DType:
    return DType.STRING if next(iter(shop.section_of_customer)).startswith("c-") else DType.INT64
