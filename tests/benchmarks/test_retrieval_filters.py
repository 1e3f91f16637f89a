"""Worlds and cases of the retrieval benchmark against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.retrieval.filters import ANYWHERE, SHARES, cases, far_first
from benchmarks.retrieval.worlds import World, load, share_of, truth_of

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument

K = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    found, _ = load("clustered-900", tmp_path_factory.mktemp("cache"), tuning=5, asked=6)
    return found


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    return {case.title: case for case in cases(world, K, tmp_path_factory.mktemp("cases") / "catalogue")}


def test_there_is_a_case_for_each_selectivity_and_for_exclusions_of_less_than_half(made):
    assert [case.passing for case in made.values()] == [900, 810, 450, 90, 9, 1, 810, 450, 90, 9, 1, 800, 800]
    assert len(SHARES) == 6


def test_the_truth_is_that_of_brute_force(world, made):
    for case in made.values():
        for number, query in enumerate(world.asked):
            allow = case.allow(number, 900)
            assert allow is not None
            rows = np.flatnonzero(allow.mask)
            scores = world.items[rows] @ query
            best = rows[np.argsort(-scores, kind="stable")[: min(K, case.passing)]]
            assert np.array_equal(np.sort(case.truth.rows[number]), np.sort(best)), case.title
            assert share_of(world, case.truth, world.asked, number, best) == 1.0


def test_the_best_are_excluded(world, made):
    case = made["100 excluded, the best"]
    for number, query in enumerate(world.asked):
        assert set(case.excluded[number].tolist()) == set(np.argsort(-(world.items @ query))[:100].tolist())


def test_what_is_far_passes_with_its_group_and_scores_less(world):
    place = far_first(world)
    assert sorted(place.tolist()) == list(range(900))
    nearest = (world.items @ world.asked.T).max(axis=1)
    assert nearest[place < 90].mean() < nearest.mean()


def test_the_same_filter_is_kept(made):
    kept = made[f"10 % pass, {ANYWHERE}"]
    assert kept.allow(0, 900) is kept.allow(1, 900)


def test_an_item_of_the_same_score_is_as_good():
    items = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    twice = World("twice", items, items[:1], items[:1])
    truth = truth_of(twice, twice.asked, 1)
    assert share_of(twice, truth, twice.asked, 0, np.array([1])) == 1.0
    assert share_of(twice, truth, twice.asked, 0, np.array([2, -1])) == 0.0


def test_a_file_of_vectors_is_a_world(tmp_path):
    items, queries = np.eye(4, 3, dtype=np.float32), np.ones((6, 3), np.float32)
    np.savez(tmp_path / "mine.npz", items=items, queries=queries)
    found, folder = load(str(tmp_path / "mine.npz"), tmp_path, tuning=100, asked=100)
    assert (found.name, len(found.tuning), len(found.asked)) == ("mine", 3, 3)
    assert np.array_equal(np.load(folder / "items.npy"), items)


def test_what_was_built_of_other_vectors_is_thrown_away(tmp_path):
    for seed in (0, 0, 1):
        random = np.random.default_rng(seed)
        items, queries = random.random((4, 3), np.float32), np.ones((6, 3), np.float32)
        np.savez(tmp_path / "mine.npz", items=items, queries=queries)
        _, folder = load(str(tmp_path / "mine.npz"), tmp_path, tuning=1, asked=1)
        there = (folder / "build" / "build.json").exists()
        (folder / "build").mkdir(exist_ok=True)
        (folder / "build" / "build.json").write_text("{}")
    assert not there


@pytest.mark.parametrize("data", ["clustered", "movielens", "/nowhere.npz"])
def test_data_that_is_not_there_is_named(data, tmp_path):
    with pytest.raises(InvalidArgument, match=data):
        load(data, tmp_path, tuning=1, asked=1)


def test_a_file_without_queries_is_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", items=np.eye(3, dtype=np.float32))
    with pytest.raises(CorruptArtifact, match="items and queries"):
        load(str(tmp_path / "mine.npz"), tmp_path, tuning=1, asked=1)
