"""New tracks, known by their numbers or by their sound alone, from the settings to a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from feast import ValueType
from feast.types import Array, Float32, Int64, String
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.errors import InvalidRepository, InvalidSettings, JobFailed
from feast_recsys.bundle.signature import Role
from feast_recsys.evaluation.protocol import evaluate_recommender
from feast_recsys.exporters.export import export_model
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.families.refit import refit
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint, save_checkpoint
from feast_recsys.models.training.loop import Run
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

# Even tracks are low, odd ones high; the last four were never played. Even listeners like it low.
TRACKS, NEW, LISTENERS, PLAYS = 24, 4, 40, 9
RATE = 4000
USAGE = {"dimension": 6, "regularization": 1.0, "threshold": 3, "bias": 0.1}
NUMBERS = {**USAGE, "hidden": [16], "dropout": 0.0, "epochs": 40, "learning_rate": 0.01}
SOUND = {
    **USAGE, "rate": RATE, "n_fft": 128, "hop": 64, "mels": 8, "frames": 8, "windows": 2, "widths": [8], "pools": [],
    "kernel": 3, "dense": [16], "dropout": 0.0, "epochs": 25, "learning_rate": 0.01, "batch": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Music:
    repo: Repo
    data: dict[str, TrainingData]
    models: dict[str, Checkpoint]


def is_high(track: int) -> bool:
    return track % 2 == 1


def build_music(folder: Path) -> Repo:
    random = np.random.default_rng(5)
    (folder / "sound").mkdir(parents=True)
    tracks = list(range(1, TRACKS + 1))
    pitches = [random.uniform(900, 1400) if is_high(t) else random.uniform(200, 400) for t in tracks]
    for track, pitch in zip(tracks, pitches, strict=True):
        wave = 0.4 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE) + 0.01 * random.standard_normal(RATE)
        soundfile.write(folder / f"sound/{track}.wav", wave.astype(np.float32), RATE)
    plays, histories = _plays(random)
    items = pd.DataFrame(
        {
            "track_id": tracks,
            "title": [f"track {t}" for t in tracks],
            "pitch": np.array(pitches, np.float32),
            "bands": [[p / 1000, 1.0, float(np.sqrt(p))] for p in pitches],
            "path": [f"sound/{t}.wav" if t != 7 else None for t in tracks],
            "event_timestamp": at(-10),
        }
    )
    repo = feast_repo(
        folder,
        [
            View("track", "track", {"title": String, "pitch": Float32, "bands": Array(Float32), "path": String}, items),
            View("listened", "listener", {"track_ids": Array(Int64)}, histories),
        ],
        user="listener", item="track", user_key="listener_id", item_key="track_id",
        user_type=ValueType.INT64, item_type=ValueType.INT64,
        services={
            "listener": ["listened:track_ids"], "numbers": ["track:pitch", "track:bands"], "sound": ["track:path"],
            "titles": ["track:title"],
        },
        settings={
            "catalogue": "track",
            "interactions": {"path": "plays.parquet"},
            "serving": {"address": "127.0.0.1:0", "store_timeout_ms": 5000},
            "recommenders": {
                name: {
                    "retrieval": {
                        "family": "content" if name == "numbers" else "audio", "query": "listener", "item": name,
                        "history": "listened:track_ids", "hyperparameters": values,
                        **({"audio": "track:path"} if name == "sound" else {}),
                    },
                    "ranking": None, "seen": ["listened:track_ids"], "candidates": 8, "title": "track:title",
                }
                for name, values in (("numbers", NUMBERS), ("sound", SOUND))
            },
        },
    )  # fmt: skip
    pq.write_table(plays, folder / "plays.parquet")
    return repo


def _plays(random: np.random.Generator) -> tuple[pa.Table, pd.DataFrame]:
    rows, histories = [], []
    for listener in range(LISTENERS):
        own = [t for t in range(1, TRACKS - NEW + 1) if is_high(t) == is_high(listener)]
        chosen = random.permutation(own)[:PLAYS].tolist()
        for n, track in enumerate(chosen):
            rows.append((listener, track, at(1000.0 * n + listener)))
            histories.append((listener, chosen[: n + 1][::-1], at(1000.0 * n + listener)))
    plays = pd.DataFrame(rows, columns=["listener_id", "track_id", "event_timestamp"])
    table = pd.DataFrame(histories, columns=["listener_id", "track_ids", "event_timestamp"])
    return pa.Table.from_pandas(plays, preserve_index=False), table


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Music:
    repo = build_music(tmp_path_factory.mktemp("music"))
    data = {name: load_data(repo, name) for name in ("numbers", "sound")}
    models = {name: train_family(repo, name, data=data[name], run=Run(seed=2)) for name in data}
    return Music(repo, data, models)


@pytest.fixture(scope="module")
def stub(music: Music) -> Iterator[RecommenderServiceStub]:
    """A server of what both models made of the catalogue."""
    models = music.repo.resolve(music.repo.settings.models)
    for checkpoint in music.models.values():
        export_model(
            checkpoint.modules, checkpoint.signature, checkpoint.vocabularies, models / checkpoint.signature.name
        )
    materialize(music.repo)
    server = Server(music.repo)
    server.start()
    try:
        assert server.wait_until_ready(60)
        with grpc.insecure_channel(server.address) as channel:
            yield RecommenderServiceStub(channel)
    finally:
        server.stop(0)


@pytest.mark.parametrize("family", ["numbers", "sound"])
def test_a_checkpoint_comes_back_as_it_was(music: Music, family: str, tmp_path: Path) -> None:
    save_checkpoint(music.models[family], tmp_path / family)
    loaded = load_checkpoint(tmp_path / family)
    assert loaded.config == dict(music.models[family].config)
    for role, module in music.models[family].modules.items():
        weights = loaded.modules[role].state_dict()
        for name, weight in module.state_dict().items():
            assert torch.equal(weights[name], weight), name
    items, others = (c.modules[Role.ITEM_ENCODER].items for c in (loaded, music.models[family]))
    assert (items.least, items.most, items.weight) == (others.least, others.most, others.weight)


@pytest.mark.parametrize("family", ["numbers", "sound"])
def test_a_track_that_nobody_ever_played_is_recommended_to_whom_it_fits(
    music: Music, stub: RecommenderServiceStub, family: str
) -> None:
    for listener in (0, 1, 6, 7):
        reply = stub.Retrieve(pb.RetrieveRequest(recommender=family, user_id=str(listener), top_k=TRACKS))
        new = [int(i) for i in reply.item_ids if int(i) > TRACKS - NEW]
        assert len(new) == NEW
        assert {is_high(t) for t in new[: NEW // 2]} == {is_high(listener)}


@pytest.mark.parametrize("family", ["numbers", "sound"])
def test_more_like_this_works_from_content_alone(stub: RecommenderServiceStub, family: str) -> None:
    for seed in range(TRACKS - NEW + 1, TRACKS + 1):
        reply = stub.Retrieve(pb.RetrieveRequest(recommender=family, seed_item_ids=[str(seed)], top_k=5))
        assert [is_high(int(i)) for i in reply.item_ids] == [is_high(seed)] * 5


def test_tracks_with_enough_plays_keep_their_usage_factors(music: Music) -> None:
    for checkpoint in music.models.values():
        encoder = checkpoint.modules[Role.ITEM_ENCODER]
        warm = encoder.items.warm.nonzero().flatten()
        length = encoder.items.tower.length
        content = [torch.rand(len(warm), length), torch.zeros(len(warm), length)]
        one, other = (encoder.items(warm, c) for c in content)
        assert torch.equal(one, other)
        assert len(warm) == checkpoint.signature.metadata["training"]["warm"]


@pytest.mark.parametrize("family", ["numbers", "sound"])
def test_what_was_trained_is_evaluated(music: Music, family: str) -> None:
    found = evaluate_recommender(music.data[family], music.models[family], None)
    assert found.ndcg["retrieve"].mean > 0.3


def test_users_who_were_left_out_find_their_way(music: Music) -> None:
    data, checkpoint = music.data["numbers"], music.models["numbers"]
    specs = [spec for graph in checkpoint.signature.graphs.values() for spec in graph.inputs]
    tensors = model_tensors(data, specs, checkpoint.vocabularies)
    half = np.arange(0, LISTENERS, 2) // 2 * 2 + np.arange(LISTENERS // 2) % 2
    modules = refit(checkpoint, tensors, data, half, Run(seed=1))
    whole, part = (
        recall(retrieve(found, tensors, data, data.test, 8), data.test) for found in (checkpoint.modules, modules)
    )
    assert whole > 0.5
    assert part > 0.5


def test_a_broken_sound_file_is_named_with_its_track(music: Music, stub: RecommenderServiceStub) -> None:
    """The bundle that is served stays."""
    path = music.repo.path / f"sound/{TRACKS}.wav"
    content = path.read_bytes()
    try:
        path.write_bytes(b"no sound at all")
        with pytest.raises(JobFailed, match=rf"item {TRACKS}: .*{TRACKS}\.wav.*clear track:path"):
            materialize(music.repo, mode="full")
    finally:
        path.write_bytes(content)
    assert stub.Retrieve(pb.RetrieveRequest(recommender="sound", user_id="1")).item_ids


def test_what_the_settings_lack_is_named(music: Music) -> None:
    cases: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        ("numbers", {"item": "titles"}, InvalidRepository, "track:title"),
        ("sound", {"audio": None}, InvalidRepository, "retrieval.audio"),
        ("sound", {"hyperparameters": {"melz": 3}}, InvalidSettings, "hyperparameters.melz"),
        ("sound", {"hyperparameters": {"mels": "many"}}, InvalidSettings, "hyperparameters.mels"),
        ("numbers", {"history": None}, InvalidSettings, "retrieval.history"),
    ]
    for name, changes, error, field in cases:
        settings = music.repo.settings.recommenders[name]
        changed = settings.model_copy(update={"retrieval": settings.retrieval.model_copy(update=changes)})
        data = replace(music.data[name], settings=changed)
        if "item" in changes:
            whole = music.repo.settings.model_copy(update={"recommenders": {name: changed}})
            data = load_data(replace(music.repo, settings=whole), name)
        with pytest.raises(error) as refused:
            train_family(music.repo, name, data=data)
        assert field in refused.value.field
