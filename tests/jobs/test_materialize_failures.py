"""Whatever goes wrong is named, nothing is published, and the next run succeeds."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast.protos.feast.types.Value_pb2 import Value
from support import warehouse
from support.during import During
from support.feast_repo import TIMESTAMP, at

from feast_recsys.bundle.errors import (
    InvalidRepository,
    JobFailed,
)
from feast_recsys.bundle.store import current, open_bundle
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.lease import hold_lease
from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF


def edit_signature(folder, model, edit):
    path = folder / "models" / model / "model.yaml"
    document = yaml.safe_load(path.read_text())
    edit(document)
    path.write_text(yaml.safe_dump(document))


def test_an_empty_catalogue_is_no_catalogue(tmp_path):
    repo = warehouse.build(tmp_path)
    with pytest.raises(InvalidRepository, match="catalogue view 'catalogue' has no item up to 2023-12-31"):
        materialize(repo, as_of=datetime(2023, 12, 31, tzinfo=timezone.utc))
    assert current(tmp_path / "bundles") is None
    assert materialize(repo, as_of=AS_OF).published


def test_a_source_that_feast_can_not_read_names_the_view(tmp_path):
    repo = warehouse.build(tmp_path)
    path = tmp_path / "popularity.parquet"
    good = path.read_bytes()
    path.write_bytes(b"no parquet")
    with pytest.raises(JobFailed, match="Feast could not materialize feature view 'popularity'"):
        materialize(repo, as_of=AS_OF)
    path.write_bytes(good)
    assert materialize(repo, as_of=AS_OF).published


def test_vectors_that_are_not_finite_name_the_item(tmp_path):
    repo = warehouse.build(tmp_path)
    price = [3e38, *warehouse.ITEMS["price"][1:]]
    pq.write_table(warehouse.catalogue_rows(warehouse.item_ids(True), price=price), tmp_path / "catalogue.parquet")
    with pytest.raises(JobFailed, match="numbers that are not finite for items item-a"):
        materialize(repo, as_of=AS_OF)


def test_vectors_of_another_width_than_promised_are_refused(tmp_path):
    repo = warehouse.build(tmp_path)
    edit_signature(tmp_path, "things_retrieval", lambda document: document.update(dimension=5))
    with pytest.raises(JobFailed, match=r"gave \[6, 4\] for 6 items; its signature promises dimension 5"):
        materialize(repo, as_of=AS_OF)


def test_a_missing_value_that_the_encoder_requires_names_item_and_feature(tmp_path):
    repo = warehouse.build(tmp_path)

    def require(document):
        document["graphs"]["item_encoder"]["inputs"][1]["required"] = True

    edit_signature(tmp_path, "things_retrieval", require)
    with pytest.raises(JobFailed, match="item item-c has no value of catalogue:year, which the item encoder requires"):
        materialize(repo, as_of=AS_OF)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("popularity:sold", "is to take item vectors, but also has last_sold"),
        ("vectors:vector", "the Feast repository has no feature view 'vectors'"),
    ],
)
def test_vectors_need_a_view_of_their_own(tmp_path, reference, message):
    repo = warehouse.build(tmp_path, settings={"recommenders": {"things": {"retrieval": {"vectors": reference}}}})
    with pytest.raises(InvalidRepository, match=message):
        materialize(repo, as_of=AS_OF)


def test_two_recommenders_need_two_features(tmp_path):
    retrieval = {"model": "things_retrieval", "vectors": warehouse.VECTORS}
    recommender = {"retrieval": retrieval, "ranking": None}
    repo = warehouse.build(tmp_path, settings={"recommenders": {"a": recommender, "b": recommender}})
    with pytest.raises(InvalidRepository, match="two recommenders write their vectors to the same feature"):
        materialize(repo, as_of=AS_OF)


def test_a_folder_with_files_of_other_columns_is_refused(tmp_path):
    repo = warehouse.build(tmp_path)
    path = tmp_path / "item_vectors/schema.parquet"
    pq.write_table(pq.read_table(path).append_column("model", pa.array([], pa.string())), path)
    with pytest.raises(InvalidRepository, match=r"has the columns sku, vector, event_timestamp, model; vectors need"):
        materialize(repo, as_of=AS_OF)


def update_online(folder, repo, view, feature, value):
    """Changes a stored value of all items behind Feast's back, without a newer event time."""
    with contextlib.closing(sqlite3.connect(folder / "online.db")) as connection:
        connection.execute(
            f"UPDATE {repo.store.project}_{view} SET value = ? WHERE feature_name = ?",
            (value.SerializeToString(), feature),
        )
        connection.commit()


def test_the_audit_names_feature_and_items_that_differ_and_nothing_is_published(tmp_path):
    repo = warehouse.build(tmp_path)
    tamper = During("audit", lambda: update_online(tmp_path, repo, "catalogue", "year", Value(int64_val=3)))
    with pytest.raises(JobFailed) as caught:
        materialize(repo, as_of=AS_OF, reporter=tamper)
    assert caught.value.field == "catalogue:year"
    # Items d and e have the year 3 anyway.
    assert "catalogue:year differs from get_online_features for items item-a, item-b, item-c, item-f;" in str(
        caught.value
    )
    assert "for item-a the snapshot has 1, Feast 3" in str(caught.value)
    assert current(tmp_path / "bundles") is None
    assert materialize(repo, as_of=AS_OF).published


def test_newer_online_rows_are_drift_and_no_error(tmp_path, redis_or_none):
    repo = warehouse.build(tmp_path, redis=redis_or_none)
    ids, then = warehouse.item_ids(True)[:2], [at(0), at(0)]
    rows = pd.DataFrame({warehouse.ITEM_KEY: ids, "sold": [100, 200], "last_sold": then, TIMESTAMP: [at(9), at(9)]})
    push = During("audit", lambda: repo.store.write_to_online_store("popularity", df=rows))
    summary = materialize(repo, as_of=AS_OF, reporter=push)
    assert summary.published
    counts = next(step.counts for step in summary.steps if step.name == "audit")
    assert counts["drifted"] == 4
    assert counts["values"] == 8 * warehouse.N - 4
    bundle = open_bundle(tmp_path / "bundles" / summary.bundle_id)
    assert bundle.snapshot.column("popularity:sold").to_list()[:2] == [1, 2]


def test_vectors_that_read_back_otherwise_fail_the_job(tmp_path):
    repo = warehouse.build(tmp_path)
    wrong = Value()
    wrong.float_list_val.val.extend([1.0, 2.0, 3.0, 4.0])
    tamper = During(
        "write vectors", lambda: update_online(tmp_path, repo, "item_vectors", "vector", wrong), on_progress=True
    )
    with pytest.raises(JobFailed, match="item_vectors:vector was written, but reads back otherwise for 6 of 6 items"):
        materialize(repo, as_of=AS_OF, reporter=tamper)
    assert current(tmp_path / "bundles") is None


def test_vectors_from_a_clock_that_was_ahead_are_replaced_all_the_same(tmp_path, redis_server):
    """Redis keeps the row with the newer event time, so the job must find a time that is newer still."""
    repo = warehouse.build(tmp_path, redis=redis_server)
    ids = warehouse.item_ids(True)
    ahead = pd.Timestamp.now(tz="UTC") + pd.Timedelta(hours=1)
    rows = pd.DataFrame({warehouse.ITEM_KEY: ids, "vector": [np.zeros(4, np.float32)] * warehouse.N, TIMESTAMP: ahead})
    repo.store.write_to_online_store("item_vectors", df=rows)
    assert materialize(repo, as_of=AS_OF).published
    answer = repo.store.get_online_features([warehouse.VECTORS], [{warehouse.ITEM_KEY: i} for i in ids]).to_dict()[
        "vector"
    ]
    np.testing.assert_array_equal(np.array(answer, np.float32), warehouse.expected_vectors(True))


def test_a_model_that_changes_under_the_job_fails_it(tmp_path):
    repo = warehouse.build(tmp_path)
    export = During("write bundle", lambda: warehouse.export_models(tmp_path / "models", True, seed=1))
    with pytest.raises(JobFailed, match="was exported anew while this job read it; run it again"):
        materialize(repo, as_of=AS_OF, reporter=export)
    summary = materialize(repo, as_of=AS_OF)
    vectors = np.load(tmp_path / "bundles" / summary.bundle_id / "vectors/things.npy")
    np.testing.assert_array_equal(vectors, warehouse.expected_vectors(True, seed=1))


def test_a_failed_run_is_made_good_even_if_the_models_went_back(tmp_path):
    """The failed run has written vectors to Feast that fit no bundle."""
    repo = warehouse.build(tmp_path)
    first = materialize(repo, as_of=AS_OF)
    warehouse.export_models(tmp_path / "models", True, seed=1)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(repo, as_of=AS_OF, reporter=During("write bundle", stop))
    warehouse.export_models(tmp_path / "models", True, seed=0)
    again = materialize(repo, as_of=AS_OF)
    assert again.published and again.bundle_id != first.bundle_id
    assert again.notes == ("the last run did not end: all item vectors are computed and written again",)
    rows = [{warehouse.ITEM_KEY: i} for i in warehouse.item_ids(True)]
    stored = repo.store.get_online_features([warehouse.VECTORS], rows).to_dict()["vector"]
    np.testing.assert_array_equal(np.array(stored, np.float32), warehouse.expected_vectors(True))
    assert not materialize(repo, as_of=AS_OF).published


def test_a_broken_bundle_is_replaced_although_nothing_is_new(tmp_path):
    repo = warehouse.build(tmp_path)
    first = materialize(repo, as_of=AS_OF)
    (tmp_path / "bundles" / first.bundle_id / "vectors/things.npy").write_bytes(b"broken")
    again = materialize(repo, as_of=AS_OF)
    assert again.published
    assert any("vectors/things.npy" in note for note in again.notes)
    open_bundle(tmp_path / "bundles" / again.bundle_id)


def test_two_jobs_at_a_time_are_one_too_many(tmp_path):
    repo = warehouse.build(tmp_path)
    with (
        hold_lease(tmp_path / "bundles"),
        pytest.raises(JobFailed, match="another materialization is running: process"),
    ):
        materialize(repo, as_of=AS_OF)


def test_a_bundle_of_yesterday_stays_current_while_today_fails(tmp_path):
    repo = warehouse.build(tmp_path)
    first = materialize(repo, as_of=AS_OF)
    with pytest.raises(JobFailed):
        materialize(repo, mode="full", as_of=AS_OF + timedelta(days=1), reporter=During("publish", _fail))
    assert current(tmp_path / "bundles") == first.bundle_id
    assert materialize(open_repo(tmp_path), as_of=AS_OF + timedelta(days=1)).published


def _fail():
    raise JobFailed("on purpose")
