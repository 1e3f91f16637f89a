"""New tracks, known by their numbers or by their sound alone, from the settings to a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from support.music import LISTENERS, NEW, TRACKS, build_music, is_high

from feast_recsys.bundle.errors import InvalidRepository, InvalidSettings, JobFailed
from feast_recsys.bundle.signature import Role
from feast_recsys.evaluation.protocol import evaluate_recommender
from feast_recsys.exporters.export import export_model
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.models.content.factors import FactorConfig
from feast_recsys.models.content.families import ContentOptions
from feast_recsys.models.content.from_data import fit_content
from feast_recsys.models.content.networks import WarmOrContent
from feast_recsys.models.content.training import DescriptorConfig
from feast_recsys.models.data.events import Part
from feast_recsys.models.data.training_data import TrainingData, load_data
from feast_recsys.models.families.refit import refit
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.load import load_checkpoint
from feast_recsys.models.retrieval.history_models import liked
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint, save_checkpoint
from feast_recsys.models.training.loop import Run
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub


@dataclass(frozen=True)
class Music:
    repo: Repo
    data: dict[str, TrainingData]
    models: dict[str, Checkpoint]


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
def test_an_unknown_listener_gets_the_most_played_tracks_first(
    music: Music, stub: RecommenderServiceStub, family: str
) -> None:
    """Whatever popularity counts for beside a cosine: `sound` leaves it out."""
    events = music.data[family].events
    plays = dict.fromkeys(range(1, TRACKS + 1), 0)
    for track in events.item_ids[events.items[events.parts == Part.TRAIN]].tolist():
        plays[track] += 1
    reply = stub.Retrieve(pb.RetrieveRequest(recommender=family, user_id="4711", top_k=TRACKS))
    found = [plays[int(track)] for track in reply.item_ids]
    assert found == sorted(plays.values(), reverse=True)
    assert len(set(found)) > 2
    assert found[-NEW:] == [0] * NEW


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


def test_tracks_whose_lists_are_all_missing_are_not_learned_from_unless_a_number_says_something(music: Music) -> None:
    data, checkpoint = music.data["numbers"], music.models["numbers"]
    numbers = [spec for spec in checkpoint.signature.graphs[Role.ITEM_ENCODER].inputs if spec.from_store]
    bands = [spec for spec in numbers if spec.is_list]
    column = data.item_columns["track:bands"]
    first = np.arange(len(column)) % data.items == np.searchsorted(data.events.item_ids, 1)
    columns = {**data.item_columns, "track:bands": replace(column, valid=column.valid & ~first)}
    vocabulary = checkpoint.vocabularies["track_id.json"]
    plays = liked(data, vocabulary, np.arange(LISTENERS), ratings=False)
    configs = (FactorConfig(dimension=6, threshold=3), DescriptorConfig(epochs=1), ContentOptions())
    for content, lacking in ((bands, 1), (numbers, 0)):
        fit = fit_content(music.repo, replace(data, item_columns=columns), content, plays, configs, Run())
        facts, items = fit.config["facts"], fit.encoders.item
        assert isinstance(items, WarmOrContent)
        assert facts["learned_from"] == facts["warm"] - lacking
        zeros = torch.zeros(1, items.tower.length)
        assert items(torch.tensor([0]), zeros)[:, :6].any() == (lacking == 0)


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
