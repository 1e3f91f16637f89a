"""What the retrieval benchmark compares: every library finds what exact search does, and its own filters hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.retrieval.data import clustered
from benchmarks.retrieval.libraries import PACKAGES, Build, Setting, build, installed, open_built, settings
from benchmarks.retrieval.tuning import most_effort

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.spec import spec_of

N, K, D = 700, 20, 32
MADE = clustered(N, queries=8, dimension=D, seed=3)
CODED = ("ours ivf_pq", "faiss ivf_pq", "ours scann", "scann scann")
EXACT = np.argsort(-(MADE.queries @ MADE.items.T), axis=1, kind="stable")

TRIED = {
    f"{setting.build.library} {setting.build.kind}": setting
    for library in PACKAGES
    if installed(library)
    for setting in settings(library, N, D)
}


@pytest.fixture(scope="module", params=TRIED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def opened(name, tmp_path_factory):
    setting, folder = TRIED[name], tmp_path_factory.mktemp("files")
    build(setting.build, MADE.items, folder, 1)
    effort = most_effort(setting, N)
    found = open_built(replace(setting, effort=effort), MADE.items, folder)
    found.prepare(effort)
    return found


def test_with_the_most_effort_it_finds_what_exact_search_does(name, opened):
    found = [np.intersect1d(opened.search(MADE.queries[n : n + 1], K), EXACT[n, :K]) for n in range(8)]
    # Codes of so few items are coarse; only some of what seems best is compared exactly.
    assert np.mean([len(rows) / K for rows in found]) > (0.7 if name in CODED else 0.95)


def test_its_own_filter_holds(opened):
    mask = np.random.default_rng(1).random(N) < 0.5
    own = opened.own_filter(Allowed(mask))
    if own is None:
        pytest.skip("its Python package has no filter")
    shares = []
    for n in range(8):
        rows = opened.filtered(MADE.queries[n : n + 1], K, own)
        rows = rows[rows >= 0]
        assert mask[rows].all()
        due = EXACT[n][mask[EXACT[n]]][:K]
        shares.append(len(np.intersect1d(rows, due)) / K)
    assert np.mean(shares) > 0.9


def test_a_setting_is_the_same_after_it_was_written(name):
    assert Setting.from_document(TRIED[name].document()) == TRIED[name]


@pytest.mark.parametrize("spec", [spec_of("ivf_sq8", {"lists": 20, "probes": 5}), spec_of("hnsw", {})], ids=str)
def test_the_bare_call_has_the_same_parameters(spec):
    bare = Setting.of(spec).bare()
    assert bare is not None
    assert (bare.build.library, bare.build.kind) == ("faiss", spec.kind)
    assert replace(bare, build=Build("ours", spec.kind, bare.build.parameters)).spec() == spec


def test_exact_search_has_no_bare_call():
    assert Setting.of(spec_of("exact", {})).bare() is None
