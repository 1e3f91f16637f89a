"""Trained models on disk: a folder of YAML, JSON and safetensors; nothing is pickled."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import nn

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.folders import replace_folder
from feast_recsys.bundle.signature import Role, Signature, to_dict
from feast_recsys.bundle.vocabulary import Vocabulary

SIGNATURE_FILE = "signature.yaml"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model.

    Attributes:
        modules: By role, in eval mode.
        signature: Without files and checksums; its metadata has the data's fingerprint and the metrics.
        vocabularies: By file name.
        config: What rebuilds the modules, and what training chose. Plain JSON.
        metrics: What was measured, by part and name. Plain JSON.
    """

    modules: Mapping[Role, nn.Module]
    signature: Signature
    vocabularies: Mapping[str, Vocabulary]
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each vocabulary, row 0 included."""
        return {file: len(vocabulary) for file, vocabulary in self.vocabularies.items()}


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint; the folder appears whole or not at all, and replaces an older checkpoint.

    Raises:
        CorruptArtifact: the folder holds something that is no checkpoint.
    """
    if folder.exists() and not (folder / SIGNATURE_FILE).is_file() and any(folder.iterdir()):
        raise CorruptArtifact(f"{folder} holds no checkpoint and would be replaced; move it away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        text = yaml.safe_dump(to_dict(checkpoint.signature), sort_keys=False, allow_unicode=True, width=110)
        (draft / SIGNATURE_FILE).write_text(text, encoding="utf-8")
        for file, vocabulary in checkpoint.vocabularies.items():
            vocabulary.save(draft / file)
        for file, content in ((CONFIG_FILE, checkpoint.config), (METRICS_FILE, checkpoint.metrics)):
            (draft / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        # Tables that modules share are written once a module.
        weights = {
            f"{role.value}/{name}": tensor.detach().clone().contiguous()
            for role, module in checkpoint.modules.items()
            for name, tensor in module.state_dict().items()
        }
        save_file(weights, draft / WEIGHTS_FILE)
        replace_folder(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
