"""Trained models read back, of whatever family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from feast_recsys.bundle.errors import CorruptArtifact, InvalidSettings
from feast_recsys.bundle.signature import Role, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.content.families import build_content_modules
from feast_recsys.models.families.registry import CONTENT_FAMILIES, HISTORY_FAMILIES, history_family
from feast_recsys.models.ranking.build import build_ranker
from feast_recsys.models.retrieval.history_models import build_history_modules
from feast_recsys.models.training.checkpoint import CONFIG_FILE, METRICS_FILE, SIGNATURE_FILE, WEIGHTS_FILE, Checkpoint
from feast_recsys.models.two_tower.build import build_encoders


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint; its modules give what those that were saved gave, bit by bit.

    Raises:
        CorruptArtifact: there is none, or a file is missing, broken, or does not fit the others; names the file.
        InvalidSignature: its signature is wrong.
    """
    signature = Signature.load(folder / SIGNATURE_FILE)
    config, metrics = _read_json(folder / CONFIG_FILE), _read_json(folder / METRICS_FILE)
    files = dict.fromkeys(file for g in signature.graphs.values() for i in g.inputs for file in i.files)
    vocabularies = {file: Vocabulary.load(folder / file) for file in files}
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
        modules = _build(signature, {f: len(v) for f, v in vocabularies.items()}, config)
        for role, module in modules.items():
            start = f"{role.value}/"
            module.load_state_dict({n.removeprefix(start): t for n, t in weights.items() if n.startswith(start)})
            module.eval()
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError, InvalidSettings) as error:
        raise CorruptArtifact(f"{path} does not fit {folder / CONFIG_FILE}: {error}; train again") from error
    return Checkpoint(modules, signature, vocabularies, config, metrics)


def _build(signature: Signature, sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[Role, nn.Module]:
    if config["family"] in HISTORY_FAMILIES:
        return build_history_modules(history_family(config["family"]), signature, sizes, config)
    if config["family"] in CONTENT_FAMILIES:
        return build_content_modules(signature, sizes, config)
    if signature.stage is Stage.RETRIEVAL:
        return build_encoders(signature, sizes, config)
    return {Role.RANKER: build_ranker(signature, sizes, config)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"{path} can't be read: {error}; train again") from error
    if not isinstance(document, dict):
        raise CorruptArtifact(f"{path} is no JSON object; train again")
    return document
