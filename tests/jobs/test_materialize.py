"""The whole job on real stores: it publishes what the encoder and Feast say, and does no more than needed."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from support import warehouse
from support.feast_repo import at
from support.materialized import add_rows, bundle_of, counts, feast_vectors, vectors_of

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.store import history, open_bundle
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF


class Recorder:
    """Remembers what a job tells."""

    def __init__(self):
        self.events = []

    def start(self, step):
        self.events.append(("start", step))

    def progress(self, done, total):
        assert 0 <= done <= total
        self.events.append(("progress", self.events[-1][1] if self.events else ""))

    def done(self, outcome):
        self.events.append(("done", outcome))

    @property
    def steps(self):
        return [text for kind, text in self.events if kind == "start"]


@pytest.mark.parametrize("strings", [True, False], ids=["string ids", "integer ids"])
def test_a_first_run_publishes_what_feast_and_the_encoder_say(tmp_path, redis_or_none, strings):
    repo = warehouse.build(tmp_path, strings=strings, redis=redis_or_none)
    reporter = Recorder()
    summary = materialize(repo, as_of=AS_OF, reporter=reporter)
    ids, oracle = warehouse.item_ids(strings), warehouse.expected_vectors(strings)

    assert summary.published
    assert (summary.items, summary.mode, summary.as_of) == (warehouse.N, "incremental", AS_OF)
    bundle = bundle_of(repo)
    assert summary.bundle_id == bundle.id == bundle.manifest.bundle_id
    assert bundle.manifest.as_of == int(AS_OF.timestamp())

    everything = np.arange(warehouse.N)
    assert bundle.snapshot.keys_of(everything).tolist() == ids
    np.testing.assert_array_equal(vectors_of(bundle, repo), oracle)
    for stored, row in zip(feast_vectors(repo, ids), oracle, strict=True):
        np.testing.assert_array_equal(stored, row)

    for name, values in warehouse.ITEMS.items():
        assert bundle.snapshot.column(f"catalogue:{name}").to_list() == values
    sold = bundle.snapshot.column("popularity:sold")
    assert sold.to_list() == [*range(1, warehouse.N - 1), None, None]
    assert bundle.snapshot.column("popularity:last_sold").to_list()[1] == int(at(1).timestamp())  # whole seconds
    assert warehouse.VECTORS not in bundle.snapshot.references

    answer = repo.store.get_online_features(
        list(bundle.snapshot.references), [{warehouse.ITEM_KEY: i} for i in ids], full_feature_names=True
    ).to_dict()
    assert answer["catalogue__title"] == warehouse.ITEMS["title"]
    assert answer["popularity__sold"] == sold.to_list()

    assert counts(summary, "embed") == {"embedded": warehouse.N, "reused": 0}
    assert counts(summary, "audit") == {"items": warehouse.N, "values": warehouse.N * 8, "drifted": 0}
    assert reporter.steps == [step.name for step in summary.steps] == [
        "open models", "materialize feature views", "read catalogue", "embed items for things",
        "write vectors to item_vectors", "write bundle", "audit", "publish",
    ]  # fmt: skip
    assert sum(kind == "done" for kind, _ in reporter.events) == len(summary.steps)
    assert summary.notes == ()
    assert f"published {bundle.id}" in str(summary)


def test_a_manifest_tells_where_a_bundle_comes_from(tmp_path):
    repo = warehouse.build(tmp_path)
    materialize(repo, as_of=AS_OF)
    manifest = bundle_of(repo).manifest
    facts = manifest.metadata
    assert manifest.project == facts["project"] == repo.store.project
    assert facts["versions"]["feast"].startswith("0.")
    assert len(facts["registry"]) == 64
    assert facts["features"]["catalogue:title"] == 4
    assert facts["newest"] == {"catalogue": int(at(0).timestamp()), "popularity": int(at(5).timestamp())}
    assert facts["audit"]["values"] == warehouse.N * 8
    assert facts["models"] == {"things_retrieval": "retrieval", "things_ranking": "ranking"}
    for name in ("things_retrieval", "things_ranking"):
        source, copy = tmp_path / "models" / name, tmp_path / "bundles" / manifest.bundle_id / "models" / name
        assert sorted(p.name for p in source.iterdir()) == sorted(p.name for p in copy.iterdir())


def test_a_second_run_has_nothing_new(tmp_path, redis_or_none):
    repo = warehouse.build(tmp_path, redis=redis_or_none)
    first = materialize(repo, as_of=AS_OF)
    files = sorted(p.name for p in (tmp_path / "item_vectors").iterdir())
    for as_of in (AS_OF, AS_OF + timedelta(days=1), None):
        again = materialize(open_repo(tmp_path), as_of=as_of)
        assert not again.published
        assert again.bundle_id == first.bundle_id
        assert [s.name for s in again.steps] == ["open models", "materialize feature views", "read catalogue"]
        assert "nothing new" in str(again)
    assert history(repo.resolve("bundles")) == [first.bundle_id]
    assert sorted(p.name for p in (tmp_path / "item_vectors").iterdir()) == files


def test_the_same_values_materialized_again_are_nothing_new(tmp_path):
    repo = warehouse.build(tmp_path)
    materialize(repo, as_of=AS_OF)
    add_rows(tmp_path, warehouse.catalogue_rows(warehouse.item_ids(True), moment=AS_OF))
    again = materialize(repo, as_of=AS_OF + timedelta(days=1))
    assert counts(again, "materialize")["materialized"] == 4
    assert not again.published


def test_only_what_changed_is_embedded_again(tmp_path, redis_or_none):
    repo = warehouse.build(tmp_path, redis=redis_or_none)
    materialize(repo, as_of=AS_OF)
    ids = warehouse.item_ids(True)
    year = [77, *warehouse.ITEMS["year"][1:]]
    add_rows(tmp_path, warehouse.catalogue_rows(ids[:1], moment=AS_OF + timedelta(hours=1), year=year))
    summary = materialize(repo, as_of=AS_OF + timedelta(days=1))
    assert summary.published
    assert counts(summary, "embed") == {"embedded": 1, "reused": warehouse.N - 1}
    oracle = warehouse.expected_vectors(True, year=year)
    np.testing.assert_array_equal(vectors_of(bundle_of(repo), repo), oracle)
    np.testing.assert_array_equal(np.stack(feast_vectors(repo, ids)), oracle)


def test_a_change_that_the_encoder_does_not_see_leaves_the_vectors_alone(tmp_path):
    repo = warehouse.build(tmp_path)
    materialize(repo, as_of=AS_OF)
    files = sorted(p.name for p in (tmp_path / "item_vectors").iterdir())
    add_rows(tmp_path, warehouse.catalogue_rows(warehouse.item_ids(True)[:1], moment=AS_OF, title=["Cap"]))
    summary = materialize(repo, as_of=AS_OF + timedelta(days=1))
    assert summary.published
    assert bundle_of(repo).snapshot.column("catalogue:title").to_list()[0] == "Cap"
    assert counts(summary, "embed") == {"embedded": 0, "reused": warehouse.N}
    assert counts(summary, "write vectors") == {"written": 0, "read_back": 0}
    assert sorted(p.name for p in (tmp_path / "item_vectors").iterdir()) == files


def test_a_new_item_joins_at_its_place(tmp_path):
    repo = warehouse.build(tmp_path)
    materialize(repo, as_of=AS_OF)
    new = warehouse.catalogue_rows(["item-aa"], moment=AS_OF, title=["Scarf"], year=[5])
    add_rows(tmp_path, new)
    summary = materialize(repo, as_of=AS_OF + timedelta(days=1))
    assert summary.items == warehouse.N + 1
    assert counts(summary, "embed") == {"embedded": 1, "reused": warehouse.N}
    bundle = bundle_of(repo)
    ids = bundle.snapshot.ids_of(np.arange(warehouse.N + 1))
    assert ids == sorted([*warehouse.item_ids(True), "item-aa"])
    np.testing.assert_array_equal(np.delete(vectors_of(bundle, repo), 1, 0), warehouse.expected_vectors(True))
    np.testing.assert_array_equal(feast_vectors(repo, ["item-aa"])[0], vectors_of(bundle, repo)[1])


def test_an_item_of_tomorrow_does_not_exist_yet(tmp_path):
    repo = warehouse.build(tmp_path)
    add_rows(tmp_path, warehouse.catalogue_rows(["item-z"], moment=AS_OF + timedelta(days=2)))
    assert materialize(repo, as_of=AS_OF).items == warehouse.N
    assert materialize(repo, as_of=AS_OF + timedelta(days=3)).items == warehouse.N + 1


@pytest.mark.parametrize("strings", [True, False], ids=["string ids", "integer ids"])
def test_new_models_embed_everything_anew(tmp_path, redis_or_none, strings):
    repo = warehouse.build(tmp_path, strings=strings, redis=redis_or_none)
    first = materialize(repo, as_of=AS_OF)
    warehouse.export_models(tmp_path / "models", strings, seed=1)
    second = materialize(repo, as_of=AS_OF)
    oracle = warehouse.expected_vectors(strings, seed=1)
    assert second.bundle_id > first.bundle_id
    assert counts(second, "embed") == {"embedded": warehouse.N, "reused": 0}
    np.testing.assert_array_equal(vectors_of(bundle_of(repo), repo), oracle)
    np.testing.assert_array_equal(np.stack(feast_vectors(repo, warehouse.item_ids(strings))), oracle)


def test_a_full_run_does_everything_again(tmp_path, redis_or_none):
    repo = warehouse.build(tmp_path, redis=redis_or_none)
    first = materialize(repo, as_of=AS_OF)
    full = materialize(repo, mode="full", as_of=AS_OF)
    assert full.published
    assert full.bundle_id > first.bundle_id
    assert counts(full, "materialize")["materialized"] == 5
    assert counts(full, "embed") == {"embedded": warehouse.N, "reused": 0}
    assert counts(full, "write vectors")["written"] == warehouse.N
    manifests = [open_bundle(repo.resolve("bundles") / name).manifest for name in (first.bundle_id, full.bundle_id)]
    assert manifests[0].fingerprint == manifests[1].fingerprint


def test_vectors_may_stay_in_the_bundle_alone(tmp_path):
    repo = warehouse.build(tmp_path, vectors=None)
    summary = materialize(repo, as_of=AS_OF)
    np.testing.assert_array_equal(vectors_of(bundle_of(repo), repo), warehouse.expected_vectors(True))
    assert not any("vectors" in step.name for step in summary.steps)


def test_a_recommender_may_only_retrieve(tmp_path):
    settings = {"recommenders": {"things": {"retrieval": {"vectors": warehouse.VECTORS}, "ranking": None}}}
    repo = warehouse.build(tmp_path, settings=settings)
    shutil.rmtree(tmp_path / "models/things_ranking")
    materialize(repo, as_of=AS_OF)
    recommender = bundle_of(repo).recommenders["things"]
    assert recommender.ranking is None and recommender.ranker is None


def test_recommenders_may_share_a_model(tmp_path):
    model = {"model": "things_retrieval"}
    settings = {
        "recommenders": {
            "things": {"retrieval": model | {"vectors": warehouse.VECTORS}},
            "others": {"retrieval": model, "ranking": {"model": "things_ranking"}},
        }
    }
    repo = warehouse.build(tmp_path, settings=settings)
    materialize(repo, as_of=AS_OF)
    bundle = bundle_of(repo)
    assert set(bundle.recommenders) == {"things", "others"}
    assert sorted(p.name for p in (tmp_path / "bundles" / bundle.id / "models").iterdir()) == [
        "things_ranking",
        "things_retrieval",
    ]


def test_old_bundles_are_kept_by_number(tmp_path):
    repo = warehouse.build(tmp_path)
    names = [materialize(repo, mode="full", as_of=AS_OF).bundle_id for _ in range(3)]
    assert history(repo.resolve("bundles")) == names[1:]


def test_views_that_can_not_be_served_are_left_out_with_a_note(tmp_path):
    repo = warehouse.build(tmp_path)
    popularity = repo.store.get_feature_view("popularity")
    popularity.online = False
    repo.store.apply([popularity])
    settings = {"recommenders": {"things": {"retrieval": {"vectors": warehouse.VECTORS}, "ranking": None}}}
    warehouse.change_settings(tmp_path, settings)
    summary = materialize(open_repo(tmp_path), as_of=AS_OF)
    assert [note for note in summary.notes if "popularity" in note and "online=False" in note]
    assert not [r for r in bundle_of(repo).snapshot.references if r.startswith("popularity:")]


@pytest.mark.parametrize(
    ("as_of", "message"),
    [(datetime(2024, 1, 1), "no time zone"), (datetime.now(timezone.utc) + timedelta(hours=1), "lies in the future")],
)
def test_a_moment_has_a_time_zone_and_is_past(tmp_path, as_of, message):
    repo = warehouse.build(tmp_path, models=False)
    with pytest.raises(InvalidArgument, match=message) as caught:
        materialize(repo, as_of=as_of)
    assert caught.value.field == "as_of"
