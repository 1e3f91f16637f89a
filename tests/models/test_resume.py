"""A training that is cut off goes on from its last whole epoch as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument, InvalidSettings
from feast_recsys.models.ranking.ftrl import Ftrl
from feast_recsys.models.training.loop import Course, EpochStep, Report, Run, Stateful, train_epochs
from feast_recsys.models.training.resume import STATE_FILE, clear_state, load_state, pack, unpack

ITEMS, BATCHES = 20, 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Model(nn.Module):
    """Two tables that share their weights, dropout, and a layer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, width)
        self.history = nn.Embedding(ITEMS, width)
        self.history.weight = self.items.weight
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 1)

    def forward(self, rows: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        both = functional.dropout(self.items(rows) + self.history(past), 0.3, self.training)
        out: torch.Tensor = self.last(self.norm(both))
        return out.squeeze(1)


def model(width: int = 4) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return Model(width)


Build = Callable[[list[nn.Parameter]], dict[str, Stateful]]


def with_schedule(schedule: Callable[[torch.optim.Optimizer], Any]) -> Build:
    def build(parameters: list[nn.Parameter]) -> dict[str, Stateful]:
        adam = torch.optim.Adam(parameters, lr=0.05)
        return {"optimizer": adam, "schedule": schedule(adam)}

    return build


OPTIMIZERS: dict[str, Build] = {
    "Adam": lambda p: {"optimizer": torch.optim.Adam(p, lr=0.05, amsgrad=True)},
    "Adagrad": lambda p: {"optimizer": torch.optim.Adagrad(p, lr=0.05)},
    "FTRL": lambda p: {"optimizer": Ftrl([{"params": p[:1], "alpha": 0.1}, {"params": p[1:]}], l1=0.01)},
    "SGD with momentum": lambda p: {"optimizer": torch.optim.SGD(p, lr=0.05, momentum=0.9)},
    "ExponentialLR": with_schedule(lambda adam: torch.optim.lr_scheduler.ExponentialLR(adam, 0.5)),
    "OneCycleLR": with_schedule(lambda adam: torch.optim.lr_scheduler.OneCycleLR(adam, 0.1, total_steps=4)),
    "ReduceLROnPlateau": with_schedule(lambda adam: torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=0)),
}


def fitting(
    module: Model, states: dict[str, Any], hold: Callable[[int, int], None] = lambda epoch, n: None
) -> EpochStep:
    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        losses = []
        for n in range(BATCHES):
            rows, past, y = (torch.from_numpy(a) for a in (*random.integers(0, ITEMS, (2, 16)), random.normal(size=16)))
            states["optimizer"].zero_grad()
            loss = functional.mse_loss(module(rows, past), y.float())
            loss.backward()
            states["optimizer"].step()
            losses.append(loss.item())
            hold(epoch, n)
        if isinstance(states.get("schedule"), torch.optim.lr_scheduler.ReduceLROnPlateau):
            states["schedule"].step(losses[-1])
        elif "schedule" in states:
            states["schedule"].step()
        return float(np.mean(losses))

    return step


def train(
    run: Run, epochs: int = 4, build: Build = OPTIMIZERS["ExponentialLR"], **options: Any
) -> tuple[dict[str, torch.Tensor], Course]:
    module = model()
    states = build(list(module.parameters()))
    hold = options.pop("hold", lambda epoch, n: None)
    course = train_epochs(module, states, fitting(module, states, hold), run, epochs=epochs, **options)
    return module.state_dict(), course


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


# Going on


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_epochs_and_two_more_are_four(name: str, tmp_path: Path) -> None:
    whole = train(Run(seed=2), build=OPTIMIZERS[name])
    train(Run(seed=2, folder=tmp_path), epochs=2, build=OPTIMIZERS[name])
    weights, course = train(Run(seed=2, folder=tmp_path, resume=True), build=OPTIMIZERS[name])
    assert_same(weights, whole[0])
    assert course == whole[1]


def test_a_training_that_was_killed_in_mid_epoch_ends_with_the_weights_of_one_that_ran_through(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle of epoch 3\n"
    finally:
        process.kill()
        process.communicate(timeout=30)
    state = load_state(tmp_path)
    assert state is not None
    assert len(state.losses) == 2
    weights, course = train(Run(seed=2, folder=tmp_path, resume=True))
    whole = train(Run(seed=2))
    assert_same(weights, whole[0])
    assert course == whole[1]


def test_the_best_weights_are_kept_over_a_resumption(tmp_path: Path) -> None:
    values = [0.1, 0.9, 0.3, 0.2, 0.8]
    scripted = iter(values)
    whole = train(Run(), epochs=5, patience=3, validate=lambda: next(scripted))
    first, second = iter(values[:3]), iter(values[3:])
    train(Run(folder=tmp_path), epochs=3, patience=3, validate=lambda: next(first))
    run = Run(folder=tmp_path, resume=True)
    weights, course = train(run, epochs=9, patience=3, validate=lambda: next(second))
    assert course == whole[1] == Course(course.losses, tuple(values), 2)
    assert_same(weights, whole[0])
    # It has stopped early: there is nothing left to do, however many epochs are allowed.
    again = train(run, epochs=9, patience=3, validate=lambda: pytest.fail("was trained on"))
    assert_same(again[0], weights)
    assert again[1] == course


def test_without_resume_a_state_is_not_looked_at(tmp_path: Path) -> None:
    train(Run(seed=1, folder=tmp_path), epochs=2)
    assert_same(train(Run(seed=2, folder=tmp_path), epochs=1)[0], train(Run(seed=2), epochs=1)[0])


def test_the_state_stays_until_it_is_cleared(tmp_path: Path) -> None:
    train(Run(folder=tmp_path / "kept"), epochs=1)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [STATE_FILE]
    clear_state(tmp_path / "kept")
    assert load_state(tmp_path / "kept") is None
    clear_state(tmp_path / "kept")


def test_resuming_where_nothing_was_begun_is_beginning(tmp_path: Path) -> None:
    assert_same(train(Run(folder=tmp_path / "new", resume=True), epochs=1)[0], train(Run(), epochs=1)[0])


def test_what_a_step_carries_from_epoch_to_epoch_goes_on(tmp_path: Path) -> None:
    class Order:
        def __init__(self) -> None:
            self.left = np.empty(0, np.int64)

        def state_dict(self) -> dict[str, Any]:
            return {"left": self.left}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.left = state_dict["left"]

    def drawn(folder: Path | None, epochs: int, resume: bool = False) -> list[int]:
        order, seen = Order(), []

        def step(epoch: int, random: np.random.Generator, report: Report) -> float:
            if not len(order.left):
                order.left = random.permutation(9)
            seen.append(int(order.left[0]))
            order.left = order.left[1:]
            return 0.0

        train_epochs(nn.Linear(1, 1), {"order": order}, step, Run(folder=folder, resume=resume), epochs=epochs)
        return seen

    assert drawn(tmp_path, 4) + drawn(tmp_path, 9, resume=True) == drawn(None, 9)


# Refusals


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    run = Run(folder=tmp_path, subject="likes of May")
    train(run, epochs=1)
    again = {"folder": tmp_path, "resume": True}
    wider = model(5)
    states = OPTIMIZERS["ExponentialLR"](list(wider.parameters()))
    for match, resumed, module, kept in (
        ("weight 'items.weight' is .20, 4. float32 there and .20, 5. float32 here", run.subject, wider, states),
        ("other weights: ..bias', 'history.weight'", run.subject, nn.Linear(1, 1), states),
        ("has the states ..optimizer', 'schedule'., not ..adam'", run.subject, model(), {"adam": states["optimizer"]}),
        ("is of 'likes of May', not of 'likes of June'; the data", "likes of June", model(), states),
    ):
        with pytest.raises(InvalidSettings, match=match) as caught:
            train_epochs(module, kept, lambda *_: 0.0, Run(**again, subject=resumed), epochs=2)
        assert caught.value.field == "resume"
    with pytest.raises(InvalidSettings, match="its seed is 0, not 1"):
        train(Run(**again, seed=1, subject=run.subject))
    with pytest.raises(InvalidSettings, match="does not fit 'optimizer'"):
        train(Run(**again, subject=run.subject), build=lambda p: {
            "optimizer": torch.optim.Adam([{"params": p[:1]}, {"params": p[1:]}]),
            "schedule": torch.optim.lr_scheduler.ExponentialLR(torch.optim.Adam(p), 0.5),
        })  # fmt: skip


def test_a_broken_state_is_refused(tmp_path: Path) -> None:
    run = Run(folder=tmp_path, resume=True)
    train(run, epochs=1)
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptArtifact, match="can't be read"):
        train(run)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CorruptArtifact, match="no training state of this version"):
        train(run)


# Nested states


numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
arrays = st.lists(st.integers(-9, 9), max_size=4).map(lambda v: np.array(v, np.int64))
tensors = st.lists(st.floats(-9, 9, width=32), max_size=4).map(torch.tensor)
nested = st.recursive(
    numbers | arrays | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@given(value=nested)
def test_nested_states_come_back_as_they_were(value: Any) -> None:
    kept: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(value, "state", kept), allow_nan=False)
    assert equal(unpack(json.loads(text), kept), value)


def test_shared_weights_are_kept_once_and_parts_without_the_rest() -> None:
    kept: dict[str, torch.Tensor] = {}
    large = torch.arange(6.0).reshape(2, 3)
    value = {"a": large, "b": large, "c": large[0], "d": large.T, "a/b": large[1], "e": {"f": np.float32(0.5)}}
    packed = pack(value, "", kept)
    assert sorted(map(tuple, (t.shape for t in kept.values()))) == [(2, 3), (3,), (3,), (3, 2)]
    back = unpack(packed, kept)
    assert all(torch.equal(back[name], value[name]) for name in ("a", "b", "c", "d", "a/b"))
    assert back["e"]["f"] == 0.5


def test_what_a_state_can_not_keep_is_refused_by_its_path() -> None:
    with pytest.raises(InvalidArgument, match="states/order/1 is a set"):
        pack({"order": [1, {2}]}, "states", {})


if __name__ == "__main__":
    torch.set_num_threads(1)

    def wait(epoch: int, n: int) -> None:
        if (epoch, n) == (2, 1):
            print("in the middle of epoch 3", flush=True)
            time.sleep(600)

    train(Run(seed=2, folder=Path(sys.argv[1])), hold=wait)
