"""The choice on planted clusters: it reaches its recall, holds, costs little, and says all that it saw."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.index.entry import IndexEntry
from feast_recsys.bundle.index.kinds import open_index
from feast_recsys.bundle.index.spec import spec_of
from feast_recsys.features.index_settings import FixedIndex, MeasuredIndex
from feast_recsys.jobs.choose_index import SMALL, Choosing, describe, fast_enough, needs_nothing, shortfall
from feast_recsys.jobs.queries import Queries
from feast_recsys.jobs.recall import exact_answers, recalls, search_all

ITEMS, WIDTH, CLUSTERS = 20_000, 16, 60
ALWAYS = {"exact_microseconds": 0.0}


@pytest.fixture(scope="module")
def world():
    """Items in clusters far apart, and queries from inside them: lists of an inverted file can be them exactly."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(CLUSTERS, WIDTH))
    centres *= 4 / np.linalg.norm(centres, axis=1, keepdims=True)
    items = centres[rng.integers(0, CLUSTERS, ITEMS)] + 0.3 * rng.normal(size=(ITEMS, WIDTH))
    queries = centres[rng.integers(0, CLUSTERS, 200)] + 0.3 * rng.normal(size=(200, WIDTH))
    return items.astype(np.float32), Queries(queries.astype(np.float32), "200 of 250 users in a planted world")


def choosing(folder, world, settings, heard=None):
    progress = None if heard is None else (lambda done, total: heard.append((done, total)))
    return Choosing(settings, world[0], folder / "index/things", "index/things", progress)


def hurried(settings):
    """No time to build candidates: what is measured anew ends with exact search, at no cost."""
    return settings.model_copy(update={"budget_seconds": 1e-9})


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, world):
    """A choice among the builds of one kind, with exact search never fast enough."""
    folder, heard = tmp_path_factory.mktemp("chosen"), []
    settings = MeasuredIndex(recall=0.95, kinds=("ivf_flat",), **ALWAYS)
    entry = choosing(folder, world, settings, heard).choose(lambda: world[1])
    return folder, settings, entry, heard


def test_what_was_chosen_reaches_the_recall_against_exact_search(world, chosen):
    folder, _, entry, _ = chosen
    items, queries = world
    assert entry.spec.kind == "ivf_flat"
    index = open_index(entry.spec, folder / entry.folder, items)
    truth = exact_answers(items, queries.vectors, 100)
    shares = recalls(truth, *search_all(index, queries.vectors, 100))
    assert shares.mean() >= entry.measured.low >= 0.95
    assert entry.measured.recall == pytest.approx(shares.mean(), abs=1e-5)


def test_the_entry_says_what_was_measured_and_on_what(chosen):
    folder, settings, entry, heard = chosen
    assert (entry.items, entry.queries, entry.k, entry.recall) == (ITEMS, 200, 100, settings.recall)
    assert entry.asked == "200 of 250 users in a planted world"
    assert {p.spec.kind for p in entry.curve} == {"exact", "ivf_flat"}
    assert entry.measured in entry.curve
    assert entry.why == f"of {len(entry.curve)} measured"
    files = [p for p in (folder / "index").rglob("*") if p.is_file()]
    assert {p.parent.name for p in files} == {"things"}
    assert sum(p.stat().st_size for p in files) == entry.measured.bytes
    assert all(p.microseconds > 0 for p in entry.curve)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1][0] == heard[-1][1]
    assert shortfall(entry) == ""
    assert str(entry.spec) in describe(entry)


def test_an_entry_survives_json(chosen):
    _, _, entry, _ = chosen
    assert IndexEntry.of(json.loads(json.dumps(asdict(entry)))) == entry


def test_a_choice_holds_as_long_as_it_reaches_the_recall(tmp_path, world, chosen):
    _, settings, entry, _ = chosen
    heard = []
    stale = replace(entry.switching, depths=entry.switching.depths[:1], efforts=(1,), tails=(1,))
    carried_on = replace(entry, segments="segments/things", switching=stale)
    again = choosing(tmp_path, world, settings, heard).choose(lambda: world[1], carried_on)
    assert heard == []  # one build, no candidates
    assert again.spec == entry.spec
    assert again.why == "as before: it still reaches the recall"
    assert [p.spec for p in again.curve] == [p.spec for p in entry.curve]
    assert again.segments is None
    assert again.switching.efforts == entry.switching.efforts  # measured anew, for the catalogue of now
    assert again.switching.depths == entry.switching.depths
    assert any((tmp_path / again.folder).iterdir())


def test_a_choice_that_fails_its_recall_is_made_anew(tmp_path, world, chosen):
    _, settings, entry, _ = chosen
    worse = replace(entry, spec=spec_of("ivf_flat", {"lists": 20, "probes": 1}))
    nowhere = Queries(np.random.default_rng(0).normal(size=(200, WIDTH)).astype(np.float32), "users of another world")
    again = choosing(tmp_path, world, hurried(settings)).choose(lambda: nowhere, worse)
    assert "no time for ivf_flat" in again.why
    assert again.measured.reaches(settings.recall)
    assert worse.spec in [p.spec for p in again.curve]


@pytest.mark.parametrize("changes", [{"recall": 0.9}, {"k": 10}, {"kinds": ("ivf_sq8",)}], ids=["recall", "k", "kinds"])
def test_other_wishes_are_measured_anew(tmp_path, world, chosen, changes):
    _, settings, entry, _ = chosen
    wishes = hurried(settings).model_copy(update=changes)
    assert "no time for" in choosing(tmp_path, world, wishes).choose(lambda: world[1], entry).why


def test_a_catalogue_that_has_doubled_is_measured_anew(tmp_path, world, chosen):
    _, settings, entry, _ = chosen
    small = replace(entry, items=ITEMS // 3)
    assert "no time for" in choosing(tmp_path, world, hurried(settings)).choose(lambda: world[1], small).why


def test_a_full_run_measures_everything_anew(tmp_path, world, chosen):
    _, settings, entry, _ = chosen
    again = choosing(tmp_path, world, hurried(settings)).choose(lambda: world[1], entry, again=True)
    assert "no time for" in again.why


def test_exact_search_stays_where_it_is_fast_enough(tmp_path, world):
    entry = choosing(tmp_path, world, MeasuredIndex(exact_microseconds=1e9)).choose(lambda: world[1])
    assert (entry.spec.kind, entry.folder, entry.why, len(entry.curve)) == ("exact", None, "fast enough", 1)
    assert not (tmp_path / "index/things").exists()


def test_a_kept_index_goes_where_the_settings_find_exact_search_fast_enough(chosen):
    _, settings, entry, _ = chosen
    exact = next(point.microseconds for point in entry.curve if point.spec.kind == "exact")
    assert not fast_enough(settings, entry)
    for limit, enough in ((0.9 * exact, False), (1.1 * exact, False), (1.3 * exact, True)):
        assert fast_enough(settings.model_copy(update={"exact_microseconds": limit}), entry) is enough


def test_a_budget_that_is_spent_builds_nothing(tmp_path, world):
    entry = choosing(tmp_path, world, MeasuredIndex(budget_seconds=1e-9, kinds=("hnsw",), **ALWAYS)).choose(
        lambda: world[1]
    )
    assert entry.spec.kind == "exact"
    assert "no time for hnsw" in entry.why


def test_without_queries_there_is_exact_search_and_a_reason(tmp_path, world):
    none = Queries(np.empty((0, WIDTH), np.float32), "3 users in the offline store ...")
    entry = choosing(tmp_path, world, MeasuredIndex(**ALWAYS)).choose(lambda: none)
    assert (entry.spec.kind, entry.queries) == ("exact", 0)
    assert shortfall(entry) == "exact: nothing was measured: 3 users in the offline store ..."


def test_a_fixed_index_is_built_and_measured_and_its_shortfall_told(tmp_path, world):
    settings = FixedIndex(kind="ivf_flat", lists=200, probes=1, recall=0.9999)
    entry = choosing(tmp_path, world, settings).choose(lambda: world[1])
    assert entry.spec == settings.spec()
    assert {p.spec.kind for p in entry.curve} == {"exact", "ivf_flat"}
    assert "fixed by the settings" in shortfall(entry)
    assert "not 0.9999" in shortfall(entry)


def test_a_fixed_index_is_built_without_anybody_to_ask(tmp_path, world):
    none = Queries(np.empty((0, WIDTH), np.float32), "nobody")
    entry = choosing(tmp_path, world, FixedIndex(kind="ivf_flat", lists=50)).choose(lambda: none)
    assert (entry.spec.kind, entry.measured, entry.asked) == ("ivf_flat", None, "nobody")
    assert any((tmp_path / entry.folder).iterdir())


def test_small_catalogues_never_pay_for_choosing():
    assert needs_nothing(MeasuredIndex(), SMALL - 1)
    assert not needs_nothing(MeasuredIndex(), SMALL)
    assert needs_nothing(FixedIndex(kind="exact"), 10**9)
    assert not needs_nothing(FixedIndex(kind="ivf_flat"), 10)


def test_wrong_names_say_what_there_is():
    for settings, says in (
        ({"kind": "ivf_flatt"}, "ivf_flat"),
        ({"kind": "ivf_flat", "probe": 3}, "probes"),
    ):
        with pytest.raises(ValueError, match=says):
            FixedIndex(**settings)
    with pytest.raises(ValueError, match="there are"):
        MeasuredIndex(kinds=("annoy",))
    assert issubclass(InvalidSettings, Exception)
