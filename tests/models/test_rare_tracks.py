"""Which sound files the job reads: those of all tracks with fewer plays than the threshold, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.feast_repo import at
from support.materialized import counts
from support.music import NEW, SOUND, TRACKS, build_music, is_high

from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.signature import Role
from feast_recsys.bundle.store import current, open_bundle
from feast_recsys.exporters.export import export_model
from feast_recsys.features.audio import LogMel, decode, log_mel, windows
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.jobs.report import Summary
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint, save_checkpoint
from feast_recsys.models.training.loop import Run

SILENT = 7  # has no file
DAY = 24 * 3600.0


@dataclass(frozen=True)
class Shop:
    """A trained and exported recommender by sound, and its repository."""

    folder: Path
    checkpoint: Checkpoint

    @property
    def warm(self) -> list[int]:
        """Tracks with enough plays."""
        rows = self.checkpoint.modules[Role.ITEM_ENCODER].items.warm.nonzero().flatten()
        return [int(self.checkpoint.vocabularies["track_id.json"].keys[row - 1]) for row in rows.tolist()]

    @property
    def rare(self) -> list[int]:
        """Tracks that training knows, with fewer plays, and a file."""
        return [t for t in range(1, TRACKS - NEW + 1) if t not in (*self.warm, SILENT)]

    def file(self, track: int) -> Path:
        return self.folder / f"sound/{track}.wav"

    def run(self, as_of: datetime, mode: Literal["full", "incremental"] = "full") -> Summary:
        return materialize(open_repo(self.folder), mode=mode, as_of=as_of)

    def vectors(self) -> np.ndarray:
        """[TRACKS, d + biases] as published, by track."""
        repo = open_repo(self.folder)
        root = repo.resolve(repo.settings.bundles)
        bundle = open_bundle(root / str(current(root)))
        assert bundle.snapshot.ids_of(np.arange(TRACKS)) == [str(track) for track in range(1, TRACKS + 1)]
        found: np.ndarray = np.load(root / bundle.id / "vectors/sound.npy")
        return found

    def directions(self) -> np.ndarray:
        """[TRACKS, d] of `vectors`, without biases."""
        return self.vectors()[:, : -self.checkpoint.signature.bias]

    def expected(self, track: int, file: Path | None) -> np.ndarray:
        """What PyTorch makes of a track with a file, or with none."""
        heard = LogMel(**{name: value for name, value in SOUND.items() if name in LogMel.__dataclass_fields__})
        content = np.zeros((1, heard.length), np.float32)
        if file is not None:
            content[0] = windows(log_mel(decode(file, heard.rate), heard), heard).reshape(-1)
        row = self.checkpoint.vocabularies["track_id.json"].encode(np.array([track]))
        with torch.no_grad():
            items = self.checkpoint.modules[Role.ITEM_ENCODER].items
            vector: np.ndarray = items(torch.from_numpy(row), torch.from_numpy(content))[0].numpy()
        return vector


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """By way of a checkpoint on disk, as the commands go."""
    folder = tmp_path_factory.mktemp("music")
    repo = build_music(folder, {"sound": {**SOUND, "threshold": 11}})
    save_checkpoint(train_family(repo, "sound", run=Run(seed=2)), folder / "checkpoint")
    checkpoint = load_checkpoint(folder / "checkpoint")
    target = repo.resolve(repo.settings.models) / checkpoint.signature.name
    export_model(checkpoint.modules, checkpoint.signature, checkpoint.vocabularies, target)
    return Shop(folder, checkpoint)


@pytest.fixture
def shop(trained: Shop) -> Iterator[Shop]:
    """Files and rows are as they were again after each test."""
    paths = [*(trained.folder / "sound").iterdir(), trained.folder / "track.parquet"]
    kept = {path: path.read_bytes() for path in paths}
    yield trained
    for path, content in kept.items():
        path.write_bytes(content)


def test_every_track_but_those_with_enough_plays_is_heard(shop: Shop) -> None:
    """Also tracks that training has heard: each has another's file since, and those of the others are gone."""
    assert len(shop.warm) > 5
    assert len(shop.rare) > 5
    heard = [*shop.rare, *range(TRACKS - NEW + 1, TRACKS + 1)]
    contents = [shop.file(track).read_bytes() for track in heard]
    for track, content in zip(heard, [*contents[1:], contents[0]], strict=True):
        shop.file(track).write_bytes(content)
    for track in shop.warm:
        shop.file(track).unlink(missing_ok=True)
    shop.run(at(DAY).to_pydatetime())
    for track, vector in enumerate(shop.vectors(), start=1):
        expected = shop.expected(track, shop.file(track) if track in heard else None)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_a_rare_track_with_a_file_of_the_other_kind_becomes_like_that_kind(shop: Shop) -> None:
    track = next(t for t in shop.rare if not is_high(t))
    for kind, sounds_high in ((track, False), (TRACKS - 1, True)):
        shutil.copy(shop.file(kind), shop.folder / "new.wav")
        shutil.move(shop.folder / "new.wav", shop.file(track))
        shop.run(at(DAY).to_pydatetime())
        directions = shop.directions()
        likeness = directions @ directions[track - 1]
        likeness[track - 1] = -np.inf
        assert [is_high(other + 1) for other in np.argsort(-likeness)[:5].tolist()] == [sounds_high] * 5


def test_the_file_of_a_rare_track_must_be_there(shop: Shop) -> None:
    shop.file(shop.rare[0]).unlink()
    with pytest.raises(JobFailed, match=rf"item {shop.rare[0]}: there is no sound file .*{shop.rare[0]}\.wav"):
        shop.run(at(DAY).to_pydatetime())


def test_an_incremental_run_hears_files_of_new_names(shop: Shop) -> None:
    """Of a rare track, of one that had no file in training, and of a new one; what is warm stays as it was."""
    shop.run(at(DAY).to_pydatetime())
    before = shop.vectors()
    rare, warm = next(t for t in shop.rare if not is_high(t)), shop.warm[0]
    shutil.copy(shop.file(TRACKS - 1), shop.folder / "sound/other.wav")
    changed = [rare, TRACKS, warm, *([] if SILENT in shop.warm else [SILENT])]
    table = pq.read_table(shop.folder / "track.parquet")
    rows = table.to_pandas().set_index("track_id", drop=False).loc[changed]
    rows = rows.assign(path="sound/other.wav", event_timestamp=pd.Timestamp(at(1.5 * DAY)))
    new = pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False)
    pq.write_table(pa.concat_tables([table, new]), shop.folder / "track.parquet")
    summary = shop.run(at(2 * DAY).to_pydatetime(), "incremental")
    assert counts(summary, "embed")["embedded"] == len(changed)
    after = shop.vectors()
    for track in range(1, TRACKS + 1):
        if track in changed and track != warm:
            expected = shop.expected(track, shop.folder / "sound/other.wav")
            np.testing.assert_allclose(after[track - 1], expected, atol=1e-5)
            assert np.abs(after[track - 1] - before[track - 1]).max() > 0.1
        else:
            np.testing.assert_array_equal(after[track - 1], before[track - 1])
