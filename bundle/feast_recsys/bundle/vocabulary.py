"""Known keys of a categorical input, numbered from 1; 0 is everything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature

OUT_OF_VOCABULARY = 0


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of keys, all strings or all integers. Key number i has row i + 1.

    Row 0 is padding and whatever is not in the vocabulary.
    """

    keys: tuple[str, ...] | tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.keys)) != len(self.keys):
            raise InvalidSignature("a vocabulary holds the same key twice; remove the repetition")
        if len({type(k) for k in self.keys}) > 1 or not all(type(k) in (str, int) for k in self.keys):
            raise InvalidSignature("the keys of a vocabulary must be all strings or all integers")

    def __len__(self) -> int:
        """Number of rows, row 0 included: the size of an embedding table."""
        return len(self.keys) + 1

    @property
    def dtype(self) -> DType:
        """Type of the keys; an empty vocabulary counts as one of strings."""
        return DType.INT64 if self.keys and isinstance(self.keys[0], int) else DType.STRING

    @cached_property
    def _rows(self) -> dict[str | int, int]:
        keys: tuple[str | int, ...] = self.keys
        return {key: row for row, key in enumerate(keys, start=1)}

    def encode(self, values: Array) -> npt.NDArray[np.int64]:
        """Rows of `values`, any shape, same shape back; 0 where unknown."""
        rows, flat = self._rows, np.asarray(values).reshape(-1)
        found = np.fromiter((rows.get(v, OUT_OF_VOCABULARY) for v in flat.tolist()), np.int64, flat.size)
        return found.reshape(np.shape(values))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the keys in order, as hex."""
        return hashlib.sha256(json.dumps(self.keys, ensure_ascii=False).encode()).hexdigest()

    @classmethod
    def fit(cls, values: Iterable[str] | Iterable[int], min_count: int = 1) -> Vocabulary:
        """The distinct values seen at least `min_count` times, sorted.

        The empty string is left out: it is what pads lists of strings. So is 0 for integers.
        """
        keys, counts = np.unique(np.asarray(list(values)), return_counts=True)
        kept: Sequence[str] | Sequence[int] = keys[counts >= min_count].tolist()
        return cls(tuple(k for k in kept if k not in ("", 0)))  # type: ignore[arg-type]  # one type by np.unique

    def save(self, path: Path) -> None:
        """Writes a JSON list."""
        path.write_text(json.dumps(self.keys, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads a JSON list.

        Raises:
            CorruptArtifact: the file is missing or not a JSON list of distinct keys of one type.
        """
        try:
            keys = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(keys, list):
                raise TypeError("not a list")
            return cls(tuple(keys))
        except (OSError, ValueError, TypeError, InvalidSignature) as error:
            raise CorruptArtifact(f"vocabulary {path} can't be read: {error}; write a JSON list of keys") from error
