"""The index on its way through the job: chosen, built, told in the manifest, by the command and by `doctor`."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from support import warehouse
from support.feast_repo import at
from support.materialized import add_rows, bundle_of

from feast_recsys.bundle.index.by_metric import Searched
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.manifest import Manifest
from feast_recsys.bundle.progress import Silent
from feast_recsys.bundle.signature import Stage
from feast_recsys.bundle.store import open_bundle
from feast_recsys.cli.main import cli
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.check_index import check_index
from feast_recsys.jobs.choose_index import choose_indexes
from feast_recsys.jobs.doctor import examine_folder
from feast_recsys.jobs.exported import open_model
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.jobs.report import Journal

AS_OF = warehouse.AS_OF
FIXED = {"kind": "ivf_flat", "lists": 2, "probes": 2}
SUBJECT = "recsys.recommenders.things.retrieval.index"


def retrieval(index):
    return {"recommenders": {"things": {"retrieval": {"index": index}, "seen": ["history:item_ids"]}}}


def said(findings, severity, text):
    return [f for f in findings if f.subject == SUBJECT and f.severity == severity and text in f.message]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A warehouse with a fixed index, materialized once."""
    folder = tmp_path_factory.mktemp("fixed")
    repo = warehouse.build(folder, vectors=None, settings=retrieval(FIXED))
    return repo, materialize(repo, as_of=AS_OF)


def test_a_fixed_index_is_built_measured_and_told(fixed):
    repo, summary = fixed
    bundle = bundle_of(repo)
    entry = bundle.manifest.recommenders["things"].index
    assert entry.folder == "index/things"
    assert (entry.spec.kind, entry.spec.build["lists"], entry.spec.search["probes"]) == ("ivf_flat", 2, 2)
    assert any(name.startswith("index/things/") for name in bundle.manifest.files)
    assert {name.partition("/")[0] for name in bundle.manifest.files} == {"index", "models", "snapshot", "vectors"}
    assert "choose index of things" in [step.name for step in summary.steps]
    assert not isinstance(bundle.recommenders["things"].index, ExactIndex)
    # The warehouse has two members.
    assert entry.queries == 2
    assert entry.measured.recall == 1.0
    assert entry.asked.startswith("2 users in the offline store")
    assert any("rests on 2 queries" in note for note in summary.notes)


def test_it_finds_what_exact_search_finds(fixed):
    repo, _ = fixed
    index, oracle = bundle_of(repo).recommenders["things"].index, warehouse.expected_vectors(True)
    queries = np.random.default_rng(0).normal(size=(20, warehouse.DIMENSION)).astype(np.float32)
    rows, scores = index.search(queries, warehouse.N)
    expected_rows, expected = ExactIndex(oracle).search(queries, warehouse.N)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-4)
    assert all(set(a.tolist()) == set(b.tolist()) for a, b in zip(rows, expected_rows, strict=True))


def test_doctor_says_which_index_there_is(fixed):
    repo, _ = fixed
    findings = examine_folder(repo.path)
    [warning] = said(findings, "warning", "rests on 2 queries")
    assert "recsys.interactions" in warning.remedy
    assert said(findings, "ok", "recall@100 1.0000")
    assert not [f for f in findings if f.severity == "error"]


def test_other_settings_make_another_bundle_and_doctor_sees_it_coming(fixed):
    repo, before = fixed
    assert not materialize(open_repo(repo.path), as_of=AS_OF).published
    warehouse.change_settings(repo.path, retrieval({}))
    again = open_repo(repo.path)
    assert materialize(again, as_of=AS_OF).published
    now = bundle_of(again)
    assert now.id != before.bundle_id
    assert isinstance(now.recommenders["things"].index, ExactIndex)
    assert now.manifest.recommenders["things"].index.why == "fewer than 20,000 items"
    assert said(list(check_index(again, now, "things")), "ok", "fewer than 20,000 items")
    warehouse.change_settings(repo.path, retrieval(FIXED))
    findings = list(check_index(open_repo(repo.path), now, "things"))
    assert said(findings, "warning", "the settings say")[0].remedy == "run `feast-recsys materialize --full`"


def test_new_items_are_in_the_index_of_the_next_run(tmp_path):
    repo = warehouse.build(tmp_path, vectors=None, settings=retrieval(FIXED))
    materialize(repo, as_of=AS_OF)
    add_rows(tmp_path, warehouse.catalogue_rows(["item-z"], at(60), price=[1.0], year=[3]))
    assert materialize(open_repo(tmp_path), as_of=None).published
    bundle = bundle_of(repo)
    index = bundle.recommenders["things"].index
    assert len(index) == warehouse.N + 1
    [row] = bundle.snapshot.rows(["item-z"])
    rows, _ = index.search(np.ones((1, warehouse.DIMENSION), np.float32), warehouse.N + 1)
    assert row in rows[0]


def test_a_bundle_from_before_there_was_a_choice_is_still_served_and_told(tmp_path):
    repo = warehouse.build(tmp_path, vectors=None)
    materialize(repo, as_of=AS_OF)
    bundle = bundle_of(repo)
    folder = tmp_path / "bundles" / bundle.id
    document = json.loads((folder / "manifest.json").read_text())
    del document["recommenders"]["things"]["index"]
    (folder / "manifest.json").write_text(json.dumps(document))
    assert Manifest.load(folder).recommenders["things"].index is None
    findings = list(check_index(repo, open_bundle(folder), "things"))
    assert said(findings, "ok", "from before there was a choice")


def test_the_command_prints_what_was_measured(tmp_path):
    warehouse.build(tmp_path, vectors=None, settings=retrieval(FIXED))
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli, ["--chdir", str(tmp_path), "materialize", "--as-of", f"{AS_OF:%Y-%m-%d}"], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "index of things" in result.output
    assert "recall" in result.output
    assert "exact" in result.output


def test_a_large_catalogue_is_measured_with_the_users_of_the_repository(tmp_path):
    """The item vectors here are planted, so that no Feast repository of that size is needed."""
    wish = {"recall": 0.9, "exact_microseconds": 0, "kinds": ["ivf_sq8"], "sample": 100}
    repo = warehouse.build(tmp_path, vectors=None, settings=retrieval(wish))
    users = [f"u{n}" for n in range(150)]
    rows = pa.table({"member": users, "age": range(150), "event_timestamp": pa.array([at(0)] * 150)})
    pq.write_table(rows, tmp_path / "profile.parquet")
    repo.store.materialize(at(-10).to_pydatetime(), AS_OF)
    models = {("things", Stage.RETRIEVAL): open_model(repo, "things", Stage.RETRIEVAL, "things_retrieval")}
    vectors = np.random.default_rng(0).normal(size=(20_500, warehouse.DIMENSION)).astype(np.float32)
    (tmp_path / "staged").mkdir()
    journal = Journal(Silent())
    staged = tmp_path / "staged"
    searched = {"things": Searched(vectors)}
    entries = choose_indexes(repo, models, searched, staged, journal, mode="incremental", as_of=AS_OF)
    entry = entries["things"]
    assert entry.queries == 100
    assert entry.asked.endswith("of 150 users in the offline store")
    assert entry.measured.reaches(0.9)
    [step] = journal.steps
    assert step.name == "choose index of things"
    assert step.counts["queries"] == entry.queries
    assert journal.notes == []
