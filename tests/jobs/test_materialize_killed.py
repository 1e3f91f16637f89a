"""SIGKILL at many moments of a job: the last good bundle stays, and the next run succeeds."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone

import numpy as np
import pytest
from feast import FeatureViewState
from support import warehouse
from support.killing import Killer

from feast_recsys.bundle.store import current, open_bundle
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.pipeline import materialize

STRIDE = 9


def materialize_here(folder):
    """What the killed children do."""
    materialize(open_repo(folder), as_of=warehouse.AS_OF)


def materialize_all_here(folder):
    """Likewise, by Feast's own materialization of every view."""
    materialize(open_repo(folder), mode="full", as_of=warehouse.AS_OF)


def feast_vectors(repo):
    rows = [{warehouse.ITEM_KEY: i} for i in warehouse.item_ids(True)]
    return np.array(repo.store.get_online_features([warehouse.VECTORS], rows).to_dict()["vector"], np.float32)


@pytest.mark.parametrize("job", [materialize_here, materialize_all_here])
def test_killed_at_any_moment_the_last_good_bundle_stays_and_the_next_run_succeeds(tmp_path, job):
    folder = tmp_path / "warehouse"  # every attempt takes place here, because Feast's registry holds absolute paths
    repo = warehouse.build(folder)
    first = materialize(repo, as_of=datetime(2024, 1, 2, tzinfo=timezone.utc))
    warehouse.export_models(folder / "models", True, seed=1)
    template = tmp_path / "template"
    shutil.copytree(folder, template)
    outcomes, interrupted = [], False
    with Killer(__name__, job.__name__) as killer:
        for step in range(1, 1000, STRIDE):
            shutil.rmtree(folder)
            shutil.copytree(template, folder)
            killed = killer.attempt(folder, step)
            now = current(folder / "bundles")
            assert now is not None
            open_bundle(folder / "bundles" / now)
            outcomes.append("old" if now == first.bundle_id else "new")
            repo = open_repo(folder)
            interrupted |= any(v.state is FeatureViewState.MATERIALIZING for v in repo.store.list_feature_views())
            again = materialize(repo, as_of=warehouse.AS_OF)
            vectors = np.load(folder / "bundles" / again.bundle_id / "vectors/things.npy")
            np.testing.assert_array_equal(vectors, warehouse.expected_vectors(True, seed=1))
            np.testing.assert_array_equal(feast_vectors(repo), vectors)
            if not killed:
                break
    assert not killed
    assert len(outcomes) > 5
    if job is materialize_all_here:
        assert interrupted  # at least one attempt died while Feast was at work
    assert outcomes == sorted(outcomes, reverse=True)  # old, old, ..., new
    assert set(outcomes) == {"old", "new"}
