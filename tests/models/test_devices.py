"""The same training on another device, or in another number format, learns what it learns on the CPU in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import QUICK, Families

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.devices import Precision, device_named, gpu_name
from feast_recsys.models.training.loop import Run

HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "two_tower": {"dimension": 16, "hidden": 16, "batch": 128, "epochs": 8},
    "mult_dae": QUICK["mult_dae"],
}
K = 15
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


@pytest.fixture(scope="module", params=sorted(HYPERPARAMETERS))
def on_cpu(request: pytest.FixtureRequest, families: Families) -> tuple[TrainingData, Checkpoint]:
    data = families.data_of("mult_dae", family=request.param, hyperparameters=HYPERPARAMETERS[request.param])
    return data, train_family(families.repo, "mult_dae", data=data, run=Run(seed=3))


def recalls(data: TrainingData, checkpoint: Checkpoint) -> dict[str, float]:
    """On validation as the training says, and on test."""
    specs = [spec for graph in checkpoint.signature.graphs.values() for spec in graph.inputs]
    found = retrieve(checkpoint.modules, model_tensors(data, specs, checkpoint.vocabularies), data, data.test, K)
    k = data.settings.candidates
    return {"validation": checkpoint.metrics["validation"][f"recall@{k}"], "test": recall(found, data.test)}


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bfloat16"),
        pytest.param("cuda", "float32", marks=on_a_gpu),
        pytest.param("cuda", "bfloat16", marks=on_a_gpu),
        pytest.param("cuda", "float16", marks=on_a_gpu),
    ],
)
def test_the_same_is_learned(
    families: Families, on_cpu: tuple[TrainingData, Checkpoint], device: str, precision: Precision
) -> None:
    data, reference = on_cpu
    run = Run(seed=3, device=device_named(device), precision=precision)
    found = train_family(families.repo, "mult_dae", data=data, run=run)
    for role, module in found.modules.items():
        others = reference.modules[role].state_dict()
        for name, weight in module.state_dict().items():
            assert (weight.device.type, weight.dtype) == ("cpu", others[name].dtype), name
            assert torch.isfinite(weight).all(), name
    expected = recalls(data, reference)
    assert min(expected.values()) > 3 * K / data.items, "or there is nothing to compare"
    assert recalls(data, found) == pytest.approx(expected, abs=0.06)


def test_auto_is_the_gpu_if_there_is_one() -> None:
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert gpu_name(torch.device("cpu")) is None
    with pytest.raises(InvalidSettings, match="auto, cpu, cuda or cuda:N"):
        device_named("gpu")


@on_a_gpu
def test_a_gpu_has_the_name_that_its_maker_gave_it() -> None:
    assert gpu_name(torch.device("cuda", 0)) == f"cuda:0 ({torch.cuda.get_device_name(0)})"
