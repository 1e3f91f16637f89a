"""Two processes under torchrun learn what one process learns from the whole batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.models.training.distributed import World, blocks_of, torchrun_world
from feast_recsys.models.training.loop import Course, Report, Run, train_epochs
from feast_recsys.models.training.resume import load_state

USERS, ITEMS, LIKES, BATCH, UNIFORM, WIDTH, EPOCHS = 60, 40, 640, 64, 16, 8, 3


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TwoTower(nn.Module):
    """A tower of users and one of items. Each process begins with other weights; the first one's count."""

    def __init__(self, world: World) -> None:
        super().__init__()
        torch.manual_seed(7 + world.rank)
        self.users, self.items = nn.Embedding(USERS, WIDTH), nn.Embedding(ITEMS, WIDTH)
        self.tower = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, WIDTH))
        self.unused = nn.Linear(2, 2)

    def queries(self, users: np.ndarray) -> torch.Tensor:
        return functional.normalize(self.tower(self.users(torch.from_numpy(users))), dim=-1)

    def vectors(self, items: np.ndarray) -> torch.Tensor:
        return functional.normalize(self.items(torch.from_numpy(items)), dim=-1)


def likes() -> tuple[np.ndarray, np.ndarray]:
    """Users like items of their own remainder by 5."""
    random = np.random.default_rng(0)
    users = random.integers(0, USERS, LIKES)
    return users, random.integers(0, ITEMS // 5, LIKES) * 5 + users % 5


def in_batch(
    queries: torch.Tensor, vectors: torch.Tensor, liked: torch.Tensor, columns: torch.Tensor, log_q: torch.Tensor
) -> torch.Tensor:
    """Softmax over the columns, of which the i-th holds the liked item of query i; other hits are left out."""
    logits, own = queries @ vectors.T / 0.1 - log_q, torch.arange(len(queries))
    accidental = liked.unsqueeze(1) == columns.unsqueeze(0)
    accidental[own, own] = False
    return functional.cross_entropy(logits.masked_fill(accidental, -torch.inf), own)


def train(world: World, run: Run, epochs: int = EPOCHS) -> tuple[TwoTower, Course]:
    users, items = likes()
    log_q = torch.linspace(-4.0, -3.0, ITEMS)
    model = TwoTower(world)
    adam = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=0.01)
    update = run.updates(model, adam)

    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        losses = []
        batches = list(blocks_of(random.permutation(LIKES), BATCH))
        for n, rows in enumerate(batches):
            mine = world.share(rows)
            drawn = world.share(random.integers(0, ITEMS, UNIFORM))
            liked, columns = items[mine], np.concatenate([items[mine], drawn])
            index = world.gather(torch.from_numpy(columns))
            vectors = world.gather(model.vectors(columns))
            loss = in_batch(model.queries(users[mine]), vectors, torch.from_numpy(liked), index, log_q[index])
            update(loss)
            losses.append(loss.item())
            report(n + 1, len(batches), loss=loss, examples=len(mine))
        return float(np.mean(losses))

    def validate() -> float:
        with torch.no_grad():
            scores = model.queries(users) @ model.items.weight.T
        return float(scores[torch.arange(LIKES), torch.from_numpy(items)].mean())

    states = {"adam": adam, "updates": update}
    return model, train_epochs(model, states, step, run, epochs=epochs, validate=validate)


@dataclass(frozen=True)
class Outcome:
    """What both processes ended with."""

    weights: list[dict[str, torch.Tensor]]
    facts: list[dict[str, Any]]
    folder: Path


def torchrun(folder: Path) -> Outcome:
    """Runs this file in two processes. The port is one that is free."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "127.0.0.1:0", __file__, str(folder)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    weights = [load_file(folder / f"{rank}.safetensors") for rank in range(2)]
    facts = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return Outcome(weights, facts, folder)


@pytest.fixture(scope="module")
def alone() -> tuple[TwoTower, Course]:
    with torch.random.fork_rng(devices=[]):
        return train(World(), Run(seed=3))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return torchrun(tmp_path_factory.mktemp("together"))


def test_the_loss_curve_is_that_of_one_process(alone: tuple[TwoTower, Course], together: Outcome) -> None:
    one = alone[1]
    assert one.losses[-1] < 0.8 * one.losses[0]
    for facts in together.facts:
        assert facts["losses"] == pytest.approx(one.losses, rel=1e-4)
        assert facts["values"] == pytest.approx(one.values, rel=1e-4)
        assert facts["best"] == one.best


def test_the_weights_are_those_of_one_process(alone: tuple[TwoTower, Course], together: Outcome) -> None:
    for name, weight in alone[0].state_dict().items():
        first, second = (weights[name] for weights in together.weights)
        assert torch.equal(first, second), name
        torch.testing.assert_close(first, weight, rtol=1e-3, atol=1e-4)


def test_one_process_cut_in_two_is_no_chance_hit(together: Outcome) -> None:
    with torch.random.fork_rng(devices=[]):
        other = train(World(), Run(seed=4))[1]
    assert together.facts[0]["losses"] != pytest.approx(other.losses, rel=1e-4)


def test_only_the_first_process_writes_and_reports(together: Outcome) -> None:
    batches = EPOCHS * (LIKES // BATCH)
    assert [facts["heard"] for facts in together.facts] == [batches, 0]
    assert [facts["wrote"] for facts in together.facts] == [True, False]
    state = load_state(together.folder / "state")
    assert state is not None
    assert state.batches == batches


def test_what_two_began_two_go_on_with(together: Outcome) -> None:
    """They stopped after one epoch, and resumed."""
    for facts, weights in zip(together.facts, together.weights, strict=True):
        assert facts["resumed"] == facts["losses"]
        resumed = load_file(together.folder / "resumed.safetensors")
        assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_gradients_flow_to_the_process_that_a_row_came_from(together: Outcome) -> None:
    """Process r has rows x_r = r + 1 and the loss (2 r + 1) * sum of c * x, own rows first, c = 1, 2, 3, 4."""
    for rank, facts in enumerate(together.facts):
        own, other = ([1, 1], [2, 2]) if rank == 0 else ([2, 2], [1, 1])
        assert facts["gathered"] == own + other
        mine = np.array([1, 2]) * (2 * rank + 1) + np.array([3, 4]) * (2 * (1 - rank) + 1)
        assert facts["gradient"] == mine.tolist()
        assert facts["means"] == [1.5, None, [1.5, 1.0]]  # of both; of none; of one, zero in the other
    assert [facts["refused"] for facts in together.facts] == ["sparse", "sparse"]


def test_one_process_is_a_world_without_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with torchrun_world("cpu") as world:
        assert world == World()
    rows, tensor = np.arange(5), torch.ones(2)
    assert world.share(rows).tolist() == rows.tolist()
    assert world.gather(tensor) is tensor
    assert (world.mean(0.3), world.of_first(0.2), world.is_first) == (0.3, 0.2, True)


def test_all_processes_have_equally_many_rows() -> None:
    parts = [World(rank, 3).share(np.arange(11)).tolist() for rank in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert World(2, 3).share(np.arange(0)).tolist() == []
    with pytest.raises(InvalidArgument, match="2 rows can't be shared by 3 processes; make batches larger"):
        World(0, 3).share(np.arange(2))


def test_batches_are_equally_long() -> None:
    assert [block.tolist() for block in blocks_of(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InvalidArgument, match="batches of 8 can't be cut from 7 examples"):
        list(blocks_of(np.arange(7), 8))


def test_half_an_environment_of_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InvalidSettings, match="not all of what torchrun sets: 'RANK'"), torchrun_world():
        pass


# What each of the two processes does


def messages(world: World) -> dict[str, Any]:
    x = torch.full((2,), world.rank + 1.0, requires_grad=True)
    gathered = world.gather(x)
    ((2 * world.rank + 1) * (torch.arange(1.0, 5.0) * gathered).sum()).backward()
    both, none, one = (nn.Parameter(torch.zeros(n)) for n in (1, 1, 2))
    both.grad = torch.tensor([world.rank + 1.0])
    if world.rank == 1:
        one.grad = torch.tensor([3.0, 2.0])
    world.average_gradients([both, none, one])
    assert both.grad is not None
    assert one.grad is not None
    table = nn.Embedding(3, 1, sparse=True)
    table(torch.tensor([1])).sum().backward()
    refused = ""
    try:
        world.average_gradients(table.parameters())
    except InvalidSettings as error:
        refused = error.field
    return {
        "gathered": gathered.tolist(), "gradient": x.grad.tolist() if x.grad is not None else None, "refused": refused,
        "means": [both.grad.item(), none.grad, one.grad.tolist()],
    }  # fmt: skip


def work(folder: Path) -> None:
    torch.set_num_threads(1)
    with torchrun_world("cpu") as world:
        heard: list[int] = []

        class Ears:
            def start(self, step: str) -> None: ...

            def progress(self, done: int, total: int) -> None:
                heard.append(done)

            def done(self, outcome: str) -> None: ...

        run = Run(seed=3, progress=Ears(), world=world, folder=folder / "state" if world.is_first else folder / "no")
        model, course = train(world, run)
        facts = {"losses": course.losses, "values": course.values, "best": course.best, "heard": len(heard),
                 "wrote": run.folder is not None and run.folder.exists(), **messages(world)}  # fmt: skip
        shared = Run(seed=3, world=world, folder=folder / "shared", resume=True)
        train(world, shared, epochs=1)
        world.mean(0.0)  # the first process has written
        again, resumed = train(world, shared)
        facts["resumed"] = resumed.losses
        save_file(model.state_dict(), folder / f"{world.rank}.safetensors")
        if world.is_first:
            save_file(again.state_dict(), folder / "resumed.safetensors")
        (folder / f"{world.rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
