"""Sound files become the numbers of a signature, of exactly those items whose sound the graph has use for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import graphs, warehouse

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature, JobFailed
from feast_recsys.bundle.signature import Input, Role, Side, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.audio import LogMel, decode, log_mel, windows
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.jobs.sound import Sounds, sounds_of

SETTINGS = LogMel(rate=8000, n_fft=256, hop=128, mels=4, frames=10)
SOUND = Input(
    "sound", "track:file", Side.ITEM, DType.FLOAT32, SETTINGS.length, known="known.json",
    audio={"rate": 8000, "n_fft": 256, "hop": 128, "mels": 4, "frames": 10},
)  # fmt: skip


def paths(*values: str | None) -> dict[str, Column]:
    there = np.array([value is not None for value in values])
    texts = np.array([value or "" for value in values], object)
    n = len(values)
    return {"track:file": Column(DType.STRING, texts, np.zeros(n, np.uint8), there, np.zeros(n, np.int64))}


def write_tone(path: Path, pitch: float) -> None:
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * pitch * np.arange(4000) / 8000).astype(np.float32), 8000)


@pytest.mark.parametrize("ids", [np.array([3, 5, 7, 9]), np.array(["c", "e", "g", "i"], object)], ids=["int", "str"])
def test_files_of_known_items_are_not_touched_and_all_others_are_read(tmp_path: Path, ids: np.ndarray) -> None:
    """Item 1 has no file, and that of item 2, which is known, does not exist."""
    write_tone(tmp_path / "a.wav", 300.0)
    write_tone(tmp_path / "d.wav", 2000.0)
    sounds = Sounds(tmp_path, {"sound": Vocabulary(tuple(ids[2:3].tolist()))}, {"sound": SETTINGS})
    found = sounds.columns([SOUND], paths("a.wav", None, "gone.wav", "d.wav"), ids)["track:file"]
    lists = np.split(found.values, found.offsets[1:-1])
    for row, file in ((0, "a.wav"), (3, "d.wav")):
        mels = log_mel(decode(tmp_path / file, SETTINGS.rate), SETTINGS)
        np.testing.assert_array_equal(lists[row], windows(mels, SETTINGS).reshape(-1))
    assert [len(lists[row]) for row in (1, 2)] == [0, 0]


def test_without_a_list_of_known_items_every_file_is_read(tmp_path: Path) -> None:
    sounds = Sounds(tmp_path, {}, {"sound": SETTINGS})
    with pytest.raises(JobFailed, match=r"item 3: there is no sound file .*gone\.wav"):
        sounds.columns([SOUND], paths("gone.wav"), np.array([3]))


@pytest.mark.parametrize(("content", "error"), [("[1, 2]", InvalidSignature), ("no list", CorruptArtifact)])
def test_a_broken_list_of_known_items_is_named(tmp_path: Path, content: str, error: type[Exception]) -> None:
    repo = warehouse.build(tmp_path)
    takes, known = warehouse.inputs(True), warehouse.vocabularies(True)
    heard = Input(
        "sound", "catalogue:title", Side.ITEM, DType.FLOAT32, SOUND.max_length, audio=SOUND.audio, known="known.json"
    )
    folder = tmp_path / "models/things_retrieval"
    graphs.export(
        folder, "things_retrieval", Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: takes[Role.QUERY_ENCODER], Role.ITEM_ENCODER: (heard,)},
        {**known, "known.json": Vocabulary(("item-a",))}, dimension=warehouse.DIMENSION,
    )  # fmt: skip
    (folder / "known.json").write_text(content)
    with pytest.raises(error, match=r"input 'sound': .*known\.json"):
        materialize(repo, as_of=warehouse.AS_OF)


def test_known_items_are_read_from_the_exported_model(tmp_path: Path) -> None:
    repo = warehouse.build(tmp_path)
    (tmp_path / "known.json").write_text(json.dumps(["item-a"]))
    sounds = sounds_of(repo, tmp_path, [SOUND])
    assert sounds is not None
    assert sounds.known["sound"].keys == ("item-a",)
    assert sounds_of(repo, tmp_path, warehouse.inputs(True)[Role.ITEM_ENCODER]) is None
