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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from feast_recsys.bundle.errors import CorruptArtifact, InvalidSettings
from feast_recsys.bundle.folders import replace_folder
from feast_recsys.bundle.signature import Role, Signature, to_dict
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.build import build_modules

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


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint; its modules give what those that were saved gave, bit by bit.

    Raises:
        CorruptArtifact: there is none, or a file is missing, broken, or does not fit the others; names the file.
        InvalidSignature: its signature is wrong.
    """
    signature = Signature.load(folder / SIGNATURE_FILE)
    config, metrics = _read_json(folder / CONFIG_FILE), _read_json(folder / METRICS_FILE)
    files = dict.fromkeys(i.vocabulary for g in signature.graphs.values() for i in g.inputs if i.vocabulary)
    vocabularies = {file: Vocabulary.load(folder / file) for file in files}
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
        modules = build_modules(signature, {f: len(v) for f, v in vocabularies.items()}, config)
        for role, module in modules.items():
            start = f"{role.value}/"
            module.load_state_dict({n.removeprefix(start): t for n, t in weights.items() if n.startswith(start)})
            module.eval()
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError, InvalidSettings) as error:
        raise CorruptArtifact(f"{path} does not fit {folder / CONFIG_FILE}: {error}; train again") from error
    return Checkpoint(modules, signature, vocabularies, config, metrics)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"{path} can't be read: {error}; train again") from error
    if not isinstance(document, dict):
        raise CorruptArtifact(f"{path} is no JSON object; train again")
    return document
