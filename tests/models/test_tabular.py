"""Wide & Deep on a table: what was planted is found, expected values too, and the result is a ranker like any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Role, Side
from feast_recsys.evaluation.predictions import auc
from feast_recsys.exporters.export import export_model
from feast_recsys.models.inputs.fitter import KNOTS, quantiles
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.ranking.tabular import Table, damped_quantiles, table_inputs, table_probabilities, train_table
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.training.checkpoint import save_checkpoint
from feast_recsys.models.training.loop import Run

SCHOOLS = ("Bachelors", "HS-grad", "11th")
JOBS = ("?", "Craft-repair", "Exec-managerial", "Sales")
ITEM_SIDE = ("entity:occupation", "job:hours-per-week")
CROSSES = (
    ("person:education", "entity:occupation"),
    ("person:capital-gain", "person:education", "entity:occupation"),
    ("entity:occupation",),
)
CONFIG = WideDeepConfig(dimension=8, hidden=(16,), dropout=0.0, alpha=0.1, l1=0.5, batch=64, epochs=5, numbers="pieces")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def people(n: int, seed: int = 0) -> Table:
    """Only a pair of school and job decides, and whether there is any gain; so the sum of both sides can't tell."""
    random = np.random.default_rng(seed)
    school, job = random.integers(0, 3, n), random.integers(0, 4, n)
    gain = np.where(random.random(n) < 0.1, random.integers(1, 100_000, n), 0)
    logit = np.where((school + job) % 2 == 0, 2.0, -2.0) + 1.5 * (gain > 0)
    columns = {
        "person:education": np.array([SCHOOLS[n] for n in school], object),
        "person:capital-gain": gain.astype(np.int64),
        "entity:occupation": np.array([JOBS[n] for n in job], object),
        "job:hours-per-week": random.normal(40, 5, n),
    }
    return Table(columns, (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32))


@pytest.mark.parametrize("parts", ["both", "wide", "deep"])
def test_a_pair_that_decides_is_found_by_every_part(parts: str) -> None:
    table, held_out = people(1500), people(500, seed=1)
    config = replace(CONFIG, parts=parts)
    trained = train_table("pay", table, held_out, item_side=ITEM_SIDE, item_id="entity:occupation", crosses=CROSSES,
                          config=config)  # fmt: skip
    test = people(2000, seed=2)
    assert auc(test.labels, table_probabilities(trained, test)) > 0.85
    graph = trained.signature.graphs[Role.RANKER]
    assert ("job__hours_per_week" in {spec.name for spec in graph.inputs}) is (parts != "wide")


def test_the_ranker_exports_with_its_strings_and_comes_back_from_disk(tmp_path: Path) -> None:
    trained = train_table("pay", people(400), people(200, seed=1), item_side=ITEM_SIDE, item_id="entity:occupation",
                          crosses=CROSSES, config=replace(CONFIG, epochs=2))  # fmt: skip
    signature = export_model(trained.modules, trained.signature, trained.vocabularies, tmp_path / "pay")
    loaded = load_model(tmp_path / "pay")[1][Role.RANKER]
    person = {"person__education": np.array(["HS-grad"], object), "person__capital_gain": np.array([0], np.int64)}
    jobs = np.array([*JOBS, "Astronaut"], object)
    hours = np.linspace(20, 60, 5).astype(np.float32)
    served = loaded.run(person | {"entity__occupation": jobs, "job__hours_per_week": hours})
    rows = Table(
        {
            "person:education": np.repeat(person["person__education"], 5),
            "person:capital-gain": np.zeros(5, np.int64),
            "entity:occupation": jobs,
            "job:hours-per-week": hours,
        },
        np.zeros(5, np.float32),
    )
    assert served == pytest.approx(table_probabilities(trained, rows), abs=1e-5)
    assert len(set(served.tolist())) == 5
    assert signature.graphs[Role.RANKER].split is not None
    save_checkpoint(trained, tmp_path / "checkpoint")
    again = load_checkpoint(tmp_path / "checkpoint")
    assert np.array_equal(table_probabilities(again, rows), table_probabilities(trained, rows))


def test_the_wide_part_alone_is_exported_too(tmp_path: Path) -> None:
    trained = train_table("pay", people(200), people(100, seed=1), item_side=ITEM_SIDE, item_id="entity:occupation",
                          crosses=CROSSES, config=replace(CONFIG, epochs=1, parts="wide"))  # fmt: skip
    signature = export_model(trained.modules, trained.signature, trained.vocabularies, tmp_path / "pay")
    assert signature.metadata["unused_inputs"] == {}


def test_the_odds_are_the_expected_watch_time() -> None:
    """Clicks are rare, and watched for longer by one kind of viewer: the click rate alone would mislead."""
    random = np.random.default_rng(0)
    n = 60_000
    kind, show = random.integers(0, 2, n), random.integers(0, 3, n)
    rate = np.array([[0.03, 0.01, 0.02], [0.01, 0.03, 0.02]])[kind, show]
    mean = np.array([[20.0, 200.0, 60.0], [80.0, 10.0, 60.0]])[kind, show]
    watched = np.where(random.random(n) < rate, random.exponential(mean) + 0.01, 0.0).astype(np.float32)
    columns = {
        "viewer:kind": np.array(["a", "b"], object)[kind],
        "entity:show": np.array(["x", "y", "z"], object)[show],
    }
    table = Table(columns, watched)
    order = random.permutation(n)
    config = WideDeepConfig(
        dimension=4, hidden=(8,), dropout=0.0, alpha=1.0, l1=0.0, batch=512, epochs=4, weighted_by="label"
    )
    trained = train_table(
        "watch", table.take(order[:50_000]), table.take(order[50_000:]), item_side=("entity:show",),
        item_id="entity:show", crosses=(("viewer:kind", "entity:show"),), config=config,
    )  # fmt: skip
    for a, one in enumerate("ab"):
        for b, other in enumerate("xyz"):
            cell = (kind == a) & (show == b)
            row = Table({"viewer:kind": np.array([one], object), "entity:show": np.array([other], object)},
                        np.zeros(1, np.float32))  # fmt: skip
            p = float(table_probabilities(trained, row)[0])
            assert p / (1 - p) == pytest.approx(watched[cell].mean(), rel=0.25)


def test_the_same_seed_gives_the_same_probabilities() -> None:
    table, held_out = people(300), people(100, seed=1)
    config = replace(CONFIG, epochs=1)
    trained = [
        train_table("pay", table, held_out, item_side=ITEM_SIDE, crosses=CROSSES, config=config, run=Run(seed=seed))
        for seed in (3, 3, 4)
    ]
    one, again, other = (table_probabilities(checkpoint, table) for checkpoint in trained)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_inputs_follow_from_the_columns() -> None:
    inputs = table_inputs(people(200), ITEM_SIDE)
    by_name = {spec.name: spec for spec in inputs.specs}
    assert by_name["person__capital_gain"].dtype is DType.INT64
    assert by_name["person__capital_gain"].feature == "person:capital-gain"
    assert by_name["job__hours_per_week"].dtype is DType.FLOAT32
    assert by_name["entity__occupation"].side is Side.ITEM
    assert by_name["person__education"].side is Side.USER
    assert inputs.vocabularies["entity__occupation.json"].keys == tuple(sorted(JOBS))


def test_a_value_that_most_rows_have_does_not_take_all_knots() -> None:
    random = np.random.default_rng(0)
    values = np.where(random.random(5000) < 0.9, 0, random.integers(1, 100_000, 5000)).astype(np.float64)
    assert len(quantiles(values)) < 6
    knots = damped_quantiles(values)
    assert 20 < len(knots) <= KNOTS
    assert all(np.mean(values <= value) == pytest.approx(share) for value, share in knots)
    assert [value for value, _ in knots] == sorted({value for value, _ in knots})
    assert damped_quantiles(np.full(9, 4.0)) == ((4.0, 1.0),)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.array([1.0, np.nan]), "finite"),
        (np.array([1 + 2j, 0j]), "complex"),
        (np.array([1, 2, 3]), "labels are"),
    ],
)
def test_a_column_that_is_no_feature_is_refused_by_name(column: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"person:age.*{message}") as error:
        table_inputs(Table({"person:age": column}, np.zeros(2, np.float32)), ())
    assert error.value.field == "person:age"


def test_a_table_has_no_lists_for_a_softmax() -> None:
    with pytest.raises(InvalidArgument, match="no lists"):
        train_table("pay", people(10), people(10), item_side=ITEM_SIDE, config=replace(CONFIG, loss="softmax"))


def test_weights_lie_on_the_cpu_in_eval_mode() -> None:
    trained = train_table("pay", people(100), people(50), item_side=ITEM_SIDE, config=replace(CONFIG, epochs=1))
    module = trained.modules[Role.RANKER]
    assert not module.training
    assert {weight.device for weight in module.parameters()} == {torch.device("cpu")}
