"""What processes count, and the page that sums it."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from feast_recsys.server.exposition import Page, read_folder
from feast_recsys.server.families import BUNDLE_SWAPS, FAMILIES, REQUESTS, STAGE_SECONDS
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.tally import BUCKETS, Tally, read_entries

LABELS = st.tuples(st.sampled_from(["Rank", 'a "quoted" one', "ü\n"]), st.text(max_size=5), st.just("OK"))


def page(folder) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Page(lambda: read_folder(folder)))
    return registry


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counted=st.lists(st.tuples(st.sampled_from(["worker-1", "worker-2"]), LABELS, st.booleans())))
def test_the_page_is_the_sum_of_what_all_processes_counted_whenever_they_began_anew(tmp_path_factory, counted):
    """True stands for a process that is replaced by another of its name."""
    folder = tmp_path_factory.mktemp("counts")
    tallies = {name: Tally(folder / name).open() for name in ("worker-1", "worker-2")}
    wanted: Counter[tuple[str, ...]] = Counter()
    for name, labels, again in counted:
        if again:
            tallies[name] = Tally(folder / name).open()
        tallies[name].add(tallies[name].at(REQUESTS, *labels))
        wanted[labels] += 1
    registry = page(folder)
    for labels, count in wanted.items():
        named = dict(zip(REQUESTS.labels, labels, strict=True))
        assert registry.get_sample_value(f"{REQUESTS.name}_total", named) == count
    entries = [e for e in read_folder(folder) if e.name == REQUESTS.name]
    assert sum(e.values[0] for e in entries) == len(counted)


@given(times=st.lists(st.one_of(st.floats(0, 10), st.sampled_from(BUCKETS)), min_size=1))
def test_a_histogram_says_what_that_of_prometheus_says(times):
    registry = CollectorRegistry()
    theirs = Histogram(STAGE_SECONDS.name, STAGE_SECONDS.text, STAGE_SECONDS.labels, registry=registry, buckets=BUCKETS)
    ours = Metrics().open()
    for seconds in times:
        theirs.labels("Rank", "user").observe(seconds)
        ours.stage("Rank", "user", seconds)
    labels = {"rpc": "Rank", "stage": "user"}
    bounds = [
        line.split('le="')[1].split('"')[0] for line in generate_latest(registry).decode().splitlines() if "le=" in line
    ]
    assert len(bounds) == len(BUCKETS) + 1
    for bound in bounds:
        name = f"{STAGE_SECONDS.name}_bucket"
        expected = registry.get_sample_value(name, {**labels, "le": bound})
        assert ours.registry.get_sample_value(name, {**labels, "le": bound}) == expected
    for suffix in ("count", "sum"):
        name = f"{STAGE_SECONDS.name}_{suffix}"
        assert ours.registry.get_sample_value(name, labels) == pytest.approx(registry.get_sample_value(name, labels))


@pytest.mark.parametrize("shared", [False, True])
def test_more_labels_than_were_foreseen_find_room(tmp_path, shared):
    tally = Tally(tmp_path / "worker-1" if shared else None).open()
    places = [tally.at(STAGE_SECONDS, "Rank", str(n)) for n in range(2000)]
    for place in places:
        tally.observe(place, 0.003)
    assert [e.values for e in tally.entries()] == [(0.0,) * 5 + (1.0,) + (0.0,) * 10 + (0.003,)] * 2000
    if shared:
        assert list(read_entries(tmp_path / "worker-1")) == list(tally.entries())
        assert list(Tally(tmp_path / "worker-1").open().entries()) == list(tally.entries())


def test_threads_lose_no_count():
    tally = Tally()
    place, start = tally.at(STAGE_SECONDS, "Rank", "user"), threading.Barrier(4)

    def count() -> None:
        start.wait()
        for _ in range(5000):
            tally.observe(place, 0.25)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [entry] = tally.entries()
    assert (sum(entry.values[:-1]), entry.values[-1]) == (20000, 5000)


def test_a_killed_process_leaves_every_count_and_no_gauge(tmp_path):
    """The next one of its name begins with gauges at 0: it has no bundle yet."""
    child = os.fork()
    if child == 0:
        metrics = Metrics(tmp_path / "worker-1").open()
        metrics.bundle_loaded("old", 1_000)
        metrics.request("Rank", "both", "OK", 0.001)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    registry = page(tmp_path)
    assert registry.get_sample_value("feast_recsys_bundle_info", {"bundle_id": "old"}) == 1
    next_one = Metrics(tmp_path / "worker-1").open()
    labels = {"rpc": "Rank", "recommender": "both", "code": "OK"}
    assert registry.get_sample_value("feast_recsys_requests_total", labels) == 1
    assert registry.get_sample_value("feast_recsys_bundle_info", {"bundle_id": "old"}) is None
    assert registry.get_sample_value("feast_recsys_bundle_age_seconds") == 0
    next_one.bundle_loaded("new", 2_000)
    assert registry.get_sample_value("feast_recsys_bundle_info", {"bundle_id": "new"}) == 1
    assert registry.get_sample_value("feast_recsys_bundle_as_of_seconds") == 2_000
    assert registry.get_sample_value("feast_recsys_bundle_swaps_total") == 2


def test_half_a_line_of_a_process_that_died_while_it_wrote_is_dropped(tmp_path):
    tally = Tally(tmp_path / "worker-1").open()
    tally.add(tally.at(BUNDLE_SWAPS), 3)
    keys = tmp_path / "worker-1.keys"
    keys.write_text(keys.read_text() + '["counter", "feast_rec')
    again = Tally(tmp_path / "worker-1").open()
    again.add(again.at(REQUESTS, "Rank", "both", "OK"))
    again.add(again.at(BUNDLE_SWAPS))
    assert {e.name: e.values for e in read_entries(tmp_path / "worker-1")} == {
        BUNDLE_SWAPS.name: (4.0,),
        REQUESTS.name: (1.0,),
    }


def test_a_swap_shows_one_bundle():
    metrics = Metrics().open()
    for name in ("a", "b", "a"):
        metrics.bundle_loaded(name, 5)
        text = generate_latest(metrics.registry).decode()
        assert [line for line in text.splitlines() if line.startswith("feast_recsys_bundle_info{")] == [
            f'feast_recsys_bundle_info{{bundle_id="{name}"}} 1.0'
        ]


def test_names_are_those_that_dashboards_know():
    assert sorted(FAMILIES) == sorted(
        f"feast_recsys_{name}"
        for name in (
            "requests",
            "request_seconds",
            "stage_seconds",
            "defaults",
            "degraded_replies",
            "store_failures",
            "filters",
            "bundle_swaps",
            "bundle_failures",
            "plan_refresh_failures",
            "bundle_info",
            "bundle_as_of_seconds",
            "workers",
            "worker_restarts",
        )
    )
