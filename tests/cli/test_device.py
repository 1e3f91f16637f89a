"""`--device`: a GPU where there is one, unless the user says otherwise; without one, the very weights of the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from click.testing import CliRunner, Result
from support.shop import Shop, build_shop, rewrite
from support.torch_settings import one_thread

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.cli.main import cli
from feast_recsys.models.load import load_checkpoint

SAYS = "PyTorch trains on cuda"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with one_thread():
        built = build_shop(tmp_path_factory.mktemp("shop"), DType.STRING)
        rewrite(built.folder, retrieval={"dimension": 4, "epochs": 1}, ranking=None)
        yield built


def run(shop: Shop, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["-c", str(shop.folder), command, *arguments], standalone_mode=False)


def weights(shop: Shop, *arguments: str) -> tuple[dict[str, torch.Tensor], str]:
    """What `train` leaves, and what it says."""
    result = run(shop, "train", *arguments)
    assert result.exception is None, result.output
    modules = load_checkpoint(shop.repo.resolve(shop.repo.settings.checkpoints) / "shop_retrieval").modules
    return {f"{role} {k}": w for role, m in modules.items() for k, w in m.state_dict().items()}, result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_said_and_the_weights_are_those_of_the_cpu(shop: Shop) -> None:
    one, said = weights(shop)
    other, _ = weights(shop, "--device", "cpu")
    assert SAYS not in said
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_gpu_is_taken_and_named_and_the_cpu_if_that_is_wanted(shop: Shop) -> None:
    one, said = weights(shop)
    other, silent = weights(shop, "--device", "cpu")
    assert SAYS in said and SAYS not in silent
    assert all(weight.device.type == "cpu" for weight in one.values())
    assert list(one) == list(other)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_device_that_is_not_there_is_refused(shop: Shop, command: str) -> None:
    weights(shop)
    result = run(shop, command, "--device", "cuda:99")
    assert isinstance(result.exception, InvalidSettings)
    assert result.exception.field == "device"
    assert "give cpu" in result.exception.message


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_best_device_is_the_default(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    [line] = [n for n, text in enumerate(result.output.splitlines()) if "--device NAME" in text]
    assert "[default: auto]" in " ".join(result.output.split("--device NAME")[1].split("\n\n")[0].split()[:40])
    assert line
