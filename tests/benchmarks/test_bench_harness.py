"""The benchmark at a tiny size: everything real, nothing timed in earnest."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import content
from benchmarks.contenders import ECHO, NAIVE, OURS, Cores, Place, command, start, workers_supported
from benchmarks.estimate import estimate
from benchmarks.floors import ENCODER, INDEX, ONNX, READ, READ_HISTORY, Parts, measure
from benchmarks.goals import goals
from benchmarks.load import Loader
from benchmarks.matrix import full_plans, quick_plans, thorough_plans
from benchmarks.peers import echo
from benchmarks.peers.handwritten import HandWritten
from benchmarks.peers.naive import NaivePeer
from benchmarks.processes import Child, Died, cpu_seconds, memory, tree
from benchmarks.report import print_report
from benchmarks.rounds import QUICK, THOROUGH, Cell, Pace, ratio
from benchmarks.rounds import measure as measure_cell
from benchmarks.traffic import TOP_K, Traffic, rank_traffic, read, retrieve_traffic
from benchmarks.verify import Disagreement, same_ranks
from benchmarks.world import SERVING, Size, World, build
from rich.console import Console

from feast_recsys.bundle.store import history
from feast_recsys.features.repo import open_repo
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb

SIZE = Size(users=20, pool=150, catalogues=(300,))
CANDIDATES = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("bench"), SIZE, stores=("sqlite",), say=lambda _: None)


@pytest.fixture(scope="module")
def place(world: World) -> Place:
    return Place(world, "sqlite", 300, None, Cores.choose())


@pytest.fixture(scope="module")
def ours(place: Place) -> Iterator[Server]:
    server = Server(open_repo(place.configuration.parent, place.configuration))
    server.start()
    assert server.wait_until_ready(60)
    yield server
    server.stop(0)


@contextmanager
def loading(world: World) -> Iterator[tuple[Loader, ExitStack]]:
    with ExitStack() as stack:
        yield Loader(world.logs, stack, Cores.choose().both), stack


def scores(reply: pb.RankResponse) -> dict[str, float]:
    return dict(zip(reply.item_ids, reply.scores, strict=True))


def test_every_contender_gives_the_same_scores_for_the_same_request(world: World, place: Place, ours: Server) -> None:
    requests = read(rank_traffic(world, CANDIDATES).path)[:5]
    naive = [NaivePeer(place.configuration, world.ranker, calls) for calls in (1, 2)]
    hand = HandWritten(place.configuration, world.ranker, world.bundle(300))
    with loading(world) as (loader, _):
        for message in requests:
            request = pb.RankRequest.FromString(message)
            reply = pb.RankResponse.FromString(loader.call(ours.address, "Rank", message))
            assert sorted(reply.item_ids) == sorted(request.item_ids)
            assert reply.info.user_status == pb.USER_STATUS_KNOWN
            for peer in (*naive, hand):
                assert scores(peer.rank(request)) == pytest.approx(scores(reply), abs=1e-5)


def test_the_parts_of_retrieve_put_together_give_what_our_server_gives(
    world: World, place: Place, ours: Server
) -> None:
    parts = Parts(place.configuration, world.ranker, world.encoders, world.bundle(300))
    with loading(world) as (loader, _):
        for message in read(retrieve_traffic(world).path)[:5]:
            reply = pb.RetrieveResponse.FromString(loader.call(ours.address, "Retrieve", message))
            assert len(reply.item_ids) == TOP_K
            assert dict(zip(reply.item_ids, reply.scores, strict=True)) == pytest.approx(parts.retrieve(message))


def test_every_floor_runs(world: World, place: Place) -> None:
    parts = Parts(place.configuration, world.ranker, world.encoders, world.bundle(300))
    ranks, retrieves = (read(t.path) for t in (rank_traffic(world, CANDIDATES), retrieve_traffic(world)))
    for name in parts.names:
        assert measure(parts, name, retrieves if name in (READ_HISTORY, ENCODER, INDEX) else ranks, 0.01)
    assert {ONNX, READ, READ_HISTORY, ENCODER, INDEX} <= set(parts.names)


def test_the_echo_answers_with_messages_of_the_same_size(world: World) -> None:
    request = pb.RankRequest.FromString(read(rank_traffic(world, CANDIDATES).path)[0])
    assert (list(echo.rank(request).item_ids), len(echo.rank(request).scores)) == (list(request.item_ids), CANDIDATES)
    retrieved = echo.retrieve(pb.RetrieveRequest(user_id="1", top_k=7))
    assert (len(retrieved.item_ids), len(retrieved.scores)) == (7, 7)


def test_requests_are_the_same_each_time_and_ask_for_items_that_the_store_holds(world: World) -> None:
    traffic = rank_traffic(world, CANDIDATES)
    first = traffic.path.read_bytes()
    assert rank_traffic(world, CANDIDATES).path.read_bytes() == first
    held = set(map(str, content.pool(300, SIZE.pool).tolist()))
    for message in read(traffic.path):
        ids = list(pb.RankRequest.FromString(message).item_ids)
        assert len(set(ids)) == CANDIDATES and set(ids) <= held


def test_a_larger_catalogue_begins_with_the_smaller_one() -> None:
    small, large = content.item_columns(100), content.item_columns(content.BLOCK + 100)
    for name, values in small.items():
        np.testing.assert_array_equal(values, large[name][:100])


def test_a_world_is_made_once(world: World) -> None:
    said: list[str] = []
    before = history(world.bundles(300))
    again = build(world.work, SIZE, stores=("sqlite",), say=said.append)
    assert (said, history(again.bundles(300))) == ([], before)


def test_a_cell_is_measured_reported_and_held_against_the_goals(world: World, place: Place) -> None:
    cell = Cell("sqlite", 300, rank_traffic(world, CANDIDATES), 2)
    with loading(world) as (loader, stack):
        contenders = start([ECHO], place, loader, stack)
        pids = contenders[ECHO].pids()
        assert pids == tree(contenders[ECHO].child.pid)
        measured = measure_cell(cell, contenders, loader, None, Pace(2, 0.5))
        held = memory(pids[0])
        assert 0 < held.private <= held.resident and cpu_seconds(pids) > 0
        unreachable = Traffic("Retrieve?", 1, cell.traffic.path)
        assert loader.run(contenders[ECHO].address, unreachable, 1, 0.05).failed > 0
    assert contenders[ECHO].child.process.returncode is not None
    row = measured["rows"][ECHO]
    assert row["failed"] == 0 and row["calls"] > 0 and len(row["rounds"]["p50"]) == 2
    text = report(measured)
    assert ECHO in text and "not measured" in text and "Rank(40)" in text


def test_contenders_that_differ_are_found(world: World, place: Place, ours: Server) -> None:
    class Forger(Loader):
        def __init__(self, inner: Loader) -> None:
            self._inner, self._calls = inner, 0

        def call(self, address: str, method: str, request: bytes) -> bytes:
            reply = pb.RankResponse.FromString(self._inner.call(address, method, request))
            self._calls += 1
            reply.scores[-1] -= 0.001 * (self._calls % 2)
            return reply.SerializeToString()

    class Ours:
        name, address = OURS, ours.address

    both: Any = {OURS: Ours(), NAIVE: Ours()}
    traffic = rank_traffic(world, CANDIDATES)
    with loading(world) as (loader, _):
        assert same_ranks(both, loader, traffic) == 0.0
        with pytest.raises(Disagreement, match="has score"):
            same_ranks(both, Forger(loader), traffic)


def test_a_child_that_ends_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("broken", [sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)
    with pytest.raises(Died, match=r"broken ended; the end of .*broken.log:\nno such thing"):
        child.listening(60)
    child.stop()
    assert child.process.returncode == 1


def test_command_lines_name_what_each_contender_needs(place: Place) -> None:
    assert command(OURS, place)[-2:] == (["--workers", "1"] if workers_supported() else ["--address", "127.0.0.1:0"])
    assert "--freeze" not in command(NAIVE, place)
    assert SERVING["metrics_address"] == "127.0.0.1:0"  # as in production, where somebody scrapes


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(("rate", "reached"), [(45.0, True), (44.0, False)])
def test_goals_compare_with_what_was_measured(rate: float, reached: bool) -> None:
    rows = {OURS: made(rate), NAIVE: made(1.0), "naive peer, gc.freeze": made(2.0)}
    cell = {"store": "redis", "items": 300, "call": "Rank", "candidates": 500, "concurrency": 32, "rows": rows}
    found = {g["goal"]: g for g in goals({"cells": [cell], "memory": []})}
    over_naive = found["Rank(500), Redis: throughput over the naive peer's"]
    assert (over_naive["value"], over_naive["reached"]) == (rate, reached)
    assert found["Rank(100), Redis: throughput over the naive peer's"]["reached"] is None


PLANS = {"quick": quick_plans, "thorough": thorough_plans, "full": full_plans}


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_measures_what_each_goal_needs(name: str) -> None:
    cells, memory = [], []
    for plan in PLANS[name]((100_000, 1_000_000)):
        for question in plan.questions:
            rows = {who: made(1.0) | {"p50_ms": 1.0, "p99_ms": 1.0} for who in question.who}
            call, size = ("Retrieve", TOP_K) if question.candidates is None else ("Rank", question.candidates)
            where = {"store": plan.store, "items": plan.items, "call": call, "candidates": size}
            cells.append(where | {"concurrency": question.concurrency, "rows": rows, "floors_sum": [1.0, 1.0]})
        there = {who for question in plan.questions for who in question.who} | set(plan.held)
        memory.append({"items": plan.items, "processes": {who: [{"private": 1}] for who in there}})
    start = {"items": 1_000_000, "seconds": 1.0, "rounds": [1.0]}
    swap = {"items": 1_000_000, "ratio": 1.0, "ratios": [1.0], "failed": 0, "swaps": [{"calls": 1}]}
    found = goals({"cells": cells, "memory": memory, "start": start, "swap": swap})
    assert [goal["goal"] for goal in found if goal["reached"] is None] == []


def test_the_estimate_counts_every_turn_and_start() -> None:
    plans = quick_plans((100, 200))
    there = {plan: [OURS, NAIVE, ECHO] for plan in plans}
    pace = Pace(2, 10.0, swaps=3, steady=4.0)
    alone = estimate(plans, there, pace, lifecycle=False)
    turns = sum(len({OURS, NAIVE, ECHO} & set(question.who)) for plan in plans for question in plan.questions)
    assert (alone.turns, alone.starts) == (2 * turns, 9)
    assert alone.seconds > 10.0 * alone.turns
    assert estimate(plans, there, pace, lifecycle=True).seconds > alone.seconds + 3 * 4.0
    longer = estimate(plans, there, Pace(2, 11.0), lifecycle=False)
    assert longer.seconds - alone.seconds >= alone.turns
    assert f"{alone.turns} turns of 10 s" in alone.text(pace)


def test_the_quick_plan_is_the_shortest_of_all() -> None:
    catalogues = (100_000, 1_000_000)
    seconds = []
    for plans, pace in ((quick_plans, QUICK), (thorough_plans, THOROUGH), (full_plans, THOROUGH)):
        chosen = plans(catalogues)
        there = {plan: sorted({n for q in plan.questions for n in q.who} | set(plan.held)) for plan in chosen}
        seconds.append(estimate(chosen, there, pace, lifecycle=True).seconds)
    assert seconds == sorted(seconds)
    assert seconds[0] < 7 * 60


def made(rate: float) -> dict[str, Any]:
    return {"rounds": {"rate": [rate, rate], "p50": [1.0, 1.0], "per_cpu": [rate, rate]}}


def report(cell: dict[str, Any]) -> str:
    machine = {"processor": "a", "cores": 2, "gflops": 1.0, "load_average": 0.0, "commit": "b", "changed": False}
    result = {
        "machine": machine,
        "world": {"users": 20, "pool": 150},
        "pace": {"rounds": 2, "seconds": 0.05},
        "cells": [cell],
        "memory": [],
        "largest_difference": 0.0,
    }
    out = io.StringIO()
    print_report({**result, "goals": goals(result)}, Console(file=out, width=200))
    return out.getvalue()
