"""Sound files as the numbers that an item encoder takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import InvalidSettings, InvalidSignature, JobFailed, RecsysError
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.vocabulary import OUT_OF_VOCABULARY, Vocabulary
from feast_recsys.features.repo import Repo

if TYPE_CHECKING:
    from feast_recsys.features.audio import LogMel

BATCH = 8
"""Items whose sound is held at once: a window of 599 frames of 128 bands is 0.3 MB."""


@dataclass(frozen=True)
class Sounds:
    """Reads the sound of items.

    Attributes:
        folder: What paths are relative to.
        known: By name of an input: the ids of items whose file is not read, see `bundle.signature.Input.known`.
        settings: By name of an input with sound: how it becomes numbers.
    """

    folder: Path
    known: Mapping[str, Vocabulary]
    settings: Mapping[str, LogMel]

    def columns(self, inputs: Sequence[Input], columns: Mapping[str, Column], ids: Array) -> dict[str, Column]:
        """The columns, with lists of numbers in place of the paths of sound files.

        Args:
            inputs: Of the item encoder.
            columns: By reference, m rows each.
            ids: [m] ids of the items.

        Raises:
            JobFailed: a file is missing or can't be read; names item, file and remedy.
        """
        read = {spec.feature: self._column(spec, columns[spec.feature], ids) for spec in inputs if spec.audio}
        return {**columns, **read}

    def _column(self, spec: Input, paths: Column, ids: Array) -> Column:
        # Few repositories have sound.
        from feast_recsys.features.audio import decode, log_mel, windows

        settings = self.settings[spec.name]
        wanted = paths.valid
        if spec.name in self.known:
            wanted = wanted & (self.known[spec.name].encode(ids) == OUT_OF_VOCABULARY)
        lists: list[npt.NDArray[np.float32]] = []
        for row in range(len(paths)):
            numbers = np.empty(0, np.float32)
            if wanted[row]:
                try:
                    wave = decode(self.folder / str(paths.values[row]), settings.rate)
                    numbers = windows(log_mel(wave, settings), settings).reshape(-1)
                except RecsysError as error:
                    raise JobFailed(
                        f"item {ids[row]}: {error.message}; mend the file, or clear {spec.feature} of this item",
                        field=spec.feature,
                    ) from error
            lists.append(numbers)
        offsets = np.concatenate([[0], np.cumsum([len(numbers) for numbers in lists])]).astype(np.int64)
        values = np.concatenate([np.empty(0, np.float32), *lists])
        return Column(DType.FLOAT32, values, paths.status, paths.valid, paths.timestamps, offsets)


def sounds_of(repo: Repo, folder: Path, inputs: Sequence[Input]) -> Sounds | None:
    """What reads the sound for an item encoder; None if it takes none.

    Args:
        repo: Paths of sound files are relative to its folder.
        folder: The exported model.
        inputs: Of its item encoder.

    Raises:
        InvalidSignature: an input's settings of sound are not those of `features.audio.LogMel`; names the setting.
        CorruptArtifact: a list of known ids can't be read.
    """
    if not takes_sound(inputs):
        return None
    settings = {spec.name: sound_settings(spec) for spec in inputs if spec.audio is not None}
    known = {spec.name: Vocabulary.load(folder / spec.known) for spec in inputs if spec.known is not None}
    return Sounds(repo.path, known, settings)


def sound_settings(spec: Input) -> LogMel:
    """How the sound of an input becomes numbers.

    Raises:
        InvalidSignature: a setting is unknown or of a wrong type, or they don't give as many numbers as the input
            takes; names it.
    """
    from feast_recsys.features.audio import LogMel

    assert spec.audio is not None
    path = f"graphs.item_encoder.{spec.name}.audio"
    given: dict[str, Any] = dict(spec.audio)
    known = [field.name for field in dataclasses.fields(LogMel)]
    for name, value in given.items():
        if name not in known:
            raise InvalidSignature(
                f"{path}.{name}: there is no such setting of sound; there are {', '.join(known)}",
                field=f"{path}.{name}",
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidSignature(f"{path}.{name} must be a number, not {value!r}", field=f"{path}.{name}")
    try:
        settings = LogMel(**given)
    except InvalidSettings as error:
        raise InvalidSignature(f"{path}.{error.field}: {error.message}", field=f"{path}.{error.field}") from error
    if settings.length != spec.max_length:
        raise InvalidSignature(
            f"{path}: {settings.windows} windows of {settings.frames} frames of {settings.mels} bands are "
            f"{settings.length} numbers, and max_length of {spec.name} is {spec.max_length}; make them agree",
            field=f"graphs.item_encoder.{spec.name}.max_length",
        )
    return settings


def takes_sound(inputs: Sequence[Input]) -> bool:
    """Whether one of the inputs is read from sound files."""
    return any(spec.audio is not None for spec in inputs)


def as_stored(spec: Input) -> Input:
    """The input as Feast has it: the path, where the graph takes what the file holds."""
    if spec.audio is None:
        return spec
    return replace(spec, audio=None, known=None, dtype=DType.STRING, max_length=None, default="", pad="")
