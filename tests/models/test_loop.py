"""The loop of all trainings: reproducible, stopped early, in several number formats, drawn for TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidSettings, JobFailed
from feast_recsys.models.training.devices import best_device, device_named, to_device
from feast_recsys.models.training.loop import Course, EpochStep, Report, Run, train_epochs

N, WIDTH, BATCH = 64, 6, 16


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examples() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(1))
    return x, x[:, :1] - 2 * x[:, 1:2] * x[:, 2:3]


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))


def fitting(module: nn.Module, run: Run, adam: torch.optim.Optimizer) -> EpochStep:
    """An epoch of regression."""
    x, y = examples()
    update = run.updates(module, adam)

    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        losses = []
        for n, rows in enumerate(random.permutation(N).reshape(-1, BATCH)):
            with run.autocast():
                loss = functional.mse_loss(module(x[rows]).float(), y[rows])
            update(loss)
            losses.append(loss.item())
            report(n + 1, N // BATCH, loss=loss, examples=BATCH)
        return float(np.mean(losses))

    return step


def train(run: Run, epochs: int = 3) -> tuple[nn.Module, Course]:
    module = network()
    adam = torch.optim.Adam(module.parameters(), lr=0.02)
    return module, train_epochs(module, {"adam": adam}, fitting(module, run, adam), run, epochs=epochs)


def same(one: nn.Module, other: nn.Module) -> bool:
    others = other.state_dict()
    return all(torch.equal(weight, others[name]) for name, weight in one.state_dict().items())


# Reproducible


def test_the_weights_are_those_of_a_plain_loop_bit_by_bit() -> None:
    trained, course = train(Run(seed=3))
    plain, (x, y), losses = network(), examples(), []
    adam = torch.optim.Adam(plain.parameters(), lr=0.02)
    for epoch in range(3):
        torch.manual_seed(3 * 100_003 + epoch)
        for rows in np.random.default_rng([3, epoch]).permutation(N).reshape(-1, BATCH):
            adam.zero_grad()
            loss = functional.mse_loss(plain(x[rows]), y[rows])
            loss.backward()
            adam.step()
            losses.append(loss.item())
    assert same(trained, plain)
    assert course == Course(tuple(np.mean(losses, axis=None) for losses in np.split(np.array(losses), 3)), (), 3)


def test_same_seed_same_weights_and_torch_goes_on_as_if_nothing_had_been() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, _ = train(Run(seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(one, train(Run(seed=1))[0])
    assert not same(one, train(Run(seed=2))[0])


# Stopped early


class Counter(nn.Module):
    """Its one weight is the number of epochs that it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(()))

    def step(self, epoch: int, random: np.random.Generator, report: Report) -> float:
        assert self.training
        with torch.no_grad():
            self.count += 1
        return 1.0 / (epoch + 1)

    def course(self, values: list[float], epochs: int = 9, patience: int = 0) -> Course:
        left = iter(values)

        def validate() -> float:
            assert not self.training
            return next(left)

        return train_epochs(self, {}, self.step, Run(), epochs=epochs, patience=patience, validate=validate)


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([0.1, 0.3, 0.2, 0.25, 0.9], 2, 4, 2),  # two epochs without a gain
        ([0.1, 0.3, 0.2, 0.4, 0.4, 0.4], 2, 6, 4),  # an equal value is no gain
        ([0.5, 0.4, 0.3, 0.2], 0, 4, 1),  # no patience asked for: to the end
        ([0.1, 0.2, 0.3, 0.4], 1, 4, 4),
    ],
)
def test_the_best_epochs_weights_are_kept(values: list[float], patience: int, epochs: int, best: int) -> None:
    module = Counter()
    course = module.course(values, epochs=len(values), patience=patience)
    assert course.values == tuple(values[:epochs])
    assert len(course.losses) == epochs
    assert (course.best, module.count.item(), module.training) == (best, best, False)


def test_without_validation_the_last_epochs_weights_are_kept() -> None:
    module = Counter()
    course = train_epochs(module, {}, module.step, Run(), epochs=3)
    assert (course.best, course.values, module.count.item()) == (3, (), 3)


def test_a_loss_or_validation_that_is_no_number_ends_the_training() -> None:
    module = Counter()
    with pytest.raises(JobFailed, match="the loss of epoch 1 is nan; lower the learning rate"):
        train_epochs(module, {}, lambda *_: float("nan"), Run(), epochs=3)
    with pytest.raises(JobFailed, match="the validation after epoch 2 is nan"):
        Counter().course([0.5, float("nan")])


def test_progress_is_told_over_all_epochs() -> None:
    heard: list[tuple[int, int]] = []

    class Ears:
        def start(self, step: str) -> None: ...

        def progress(self, done: int, total: int) -> None:
            heard.append((done, total))

        def done(self, outcome: str) -> None: ...

    train(Run(progress=Ears()), epochs=2)
    assert heard == [(n, 8) for n in range(1, 9)]


# Number formats and devices


def test_bfloat16_trains_nearly_as_well_and_keeps_float32_weights() -> None:
    exact, course = train(Run(), epochs=12)
    module, rough = train(Run(precision="bfloat16"), epochs=12)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert not same(module, exact)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert rough.losses[-1] < 0.8 * rough.losses[0]
    assert rough.losses == pytest.approx(course.losses, rel=0.05)


def test_autocast_computes_in_the_runs_format() -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Run(precision=precision).autocast():  # type: ignore[arg-type]
            assert layer(x).dtype is dtype


@pytest.mark.parametrize(
    ("build", "field", "message"),
    [
        (lambda: Run(precision="float16"), "precision", "float16 needs a CUDA device; bfloat16 works"),
        (lambda: Run(precision="half"), "precision", "'half' is unknown; give float32, bfloat16 or float16"),
        (lambda: Run(resume=True), "resume", "resume needs a folder"),
        (lambda: Run(scalars=True), "scalars", "scalars needs a folder"),
        (lambda: device_named("gpu"), "device", "device 'gpu' is unknown; give auto, cpu, cuda or cuda:N"),
        (lambda: device_named("meta"), "device", "device 'meta' is unknown"),
        (lambda: device_named("cuda:999"), "device", "device 'cuda:999' is not there: torch sees"),
    ],
)
def test_what_can_not_be_is_refused_by_name(build: Callable[[], object], field: str, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message) as caught:
        build()
    assert caught.value.field == field


def test_devices_by_name() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto") == best_device()
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    batch = {"rows": torch.arange(3)}
    assert to_device(batch, torch.device("cpu"))["rows"] is batch["rows"]
    assert to_device(batch, torch.device("meta"))["rows"].device.type == "meta"


def test_an_update_limits_the_norm_of_all_gradients() -> None:
    weights = nn.ParameterList([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))])
    sgd = torch.optim.SGD(weights.parameters(), lr=1.0)
    update = Run().updates(weights, sgd, clip=1.0)
    update(3.0 * weights[0].sum() + 4.0 * weights[1].sum())
    moved = torch.cat([p.detach() for p in weights])
    assert torch.linalg.vector_norm(moved).item() == pytest.approx(1.0, rel=1e-5)
    assert (moved / moved[2]).tolist() == pytest.approx([0.75, 0.75, 1.0])


def test_each_training_of_a_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    run = Run(folder=tmp_path, seed=4).within("retrieval", "likes")
    assert (run.folder, run.subject, run.seed) == (tmp_path / "retrieval", "likes", 4)
    assert Run().within("retrieval") == Run()


# TensorBoard


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_back_the_course(tmp_path: Path) -> None:
    module = network()
    run = Run(folder=tmp_path, scalars=True)
    adam = torch.optim.Adam(module.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, 0.5)
    inner, values = fitting(module, run, adam), iter([0.5, 0.25])

    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        loss = inner(epoch, random, report)
        schedule.step()
        return loss

    states = {"adam": adam, "schedule": schedule}
    course = train_epochs(module, states, step, run, epochs=2, validate=lambda: next(values))
    drawn = curves(tmp_path / "scalars")
    assert drawn["loss/epoch"] == [(4, pytest.approx(course.losses[0])), (8, pytest.approx(course.losses[1]))]
    assert [step for step, _ in drawn["loss/batch"]] == list(range(1, 9))
    assert np.mean([loss for _, loss in drawn["loss/batch"][:4]]) == pytest.approx(course.losses[0], rel=1e-5)
    assert drawn["validation"] == [(4, 0.5), (8, 0.25)]
    assert drawn["epoch"] == [(4, 1.0), (8, 2.0)]
    assert drawn["learning_rate/adam"] == [(4, pytest.approx(0.02)), (8, pytest.approx(0.01))]
    assert all(rate > 0 for _, rate in drawn["examples_per_second"])


def test_a_resumed_training_draws_each_batch_once(tmp_path: Path) -> None:
    class CutOffError(Exception):
        pass

    def cut_off(inner: EpochStep) -> EpochStep:
        def step(epoch: int, random: np.random.Generator, report: Report) -> float:
            loss = inner(epoch, random, report)
            if epoch == 1:
                raise CutOffError  # its batches are drawn, the epoch is not kept
            return loss

        return step

    run = Run(folder=tmp_path, scalars=True)
    module = network()
    adam = torch.optim.Adam(module.parameters(), lr=0.02)
    with pytest.raises(CutOffError):
        train_epochs(module, {"adam": adam}, cut_off(fitting(module, run, adam)), run, epochs=2)
    train(replace(run, resume=True), epochs=2)
    assert [step for step, _ in curves(tmp_path / "scalars")["loss/batch"]] == list(range(1, 9))


def test_without_tensorboard_only_those_who_ask_for_it_hear_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(Run(folder=tmp_path), epochs=1)
    with pytest.raises(InvalidSettings, match="pip install tensorboard"):
        train(Run(folder=tmp_path, scalars=True), epochs=1)
