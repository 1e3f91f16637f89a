"""Rankers in parts: what was computed for the catalogue is used where it holds, and only there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rankers import ranker
from support.serving import counted, failure, not_yet_ready, serving, wait_for
from support.serving_bundle import Oracle, alter_signature, best, publish_bundle
from support.serving_world import ITEMS, USERS, build_world
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Input, Role, Side, Signature
from feast_recsys.bundle.store import current, open_bundle
from feast_recsys.server.prepare import prepare
from feast_recsys.server.ranking import Candidates, Parts, run_stacked
from feast_recsys.v1 import recommender_service_pb2 as pb

TOLERANCE = 1e-6
TEN = [str(n) for n in range(1, 11)]
FRESH_VIEW = ("catalogue:year", "catalogue:genres", "catalogue:price", "catalogue:adult")


def whole(*values: int) -> pb.FeatureColumn:
    return pb.FeatureColumn(int64_values=pb.Int64List(values=values))


def rank(user: int, items: list[str], **columns: pb.FeatureColumn) -> pb.RankRequest:
    return pb.RankRequest(recommender="both", user_id=str(user), item_ids=items, candidate_features=columns)


def spoil_columns(staged: Path) -> None:
    """Replaces what the item part gave by something else."""
    [*files] = sorted((staged / "item_columns").iterdir())
    assert files
    for file in files:
        column = np.load(file)
        np.save(file, np.roll(column, 7, axis=0))


def without_columns(staged: Path) -> None:
    for file in (staged / "item_columns").iterdir():
        file.unlink()


def assert_scores(reply: pb.RankResponse, wanted: dict[str, float]) -> None:
    assert list(reply.item_ids) == best(wanted, len(wanted))
    np.testing.assert_allclose(reply.scores, [wanted[i] for i in reply.item_ids], atol=TOLERANCE)


def differs(reply: pb.RankResponse, wanted: dict[str, float]) -> bool:
    return not np.allclose(reply.scores, [wanted[i] for i in reply.item_ids], atol=1e-3)


def test_the_kept_columns_are_used_and_a_request_that_knows_better_has_the_whole_graph(tmp_path):
    world = build_world(tmp_path)
    oracle = Oracle(world, publish_bundle(world, change=spoil_columns))
    user = oracle.user("1")
    plain = {i: oracle.probability(user, i) for i in TEN}
    with serving(world) as (_, stub):
        assert differs(stub.Rank(rank(1, TEN)), plain), "the columns are wrong, and so must the answer be"
        # What only the caller knows goes through the cross part.
        assert differs(stub.Rank(rank(1, TEN, discount=whole(*[0] * 10))), plain)
        years = [n % 3 for n in range(10)]
        given = {i: oracle.probability(user, i, **{"catalogue:year": y}) for i, y in zip(TEN, years, strict=True)}
        request = rank(1, TEN)
        request.candidate_features["catalogue:year"].CopyFrom(whole(*years))
        assert_scores(stub.Rank(request), given)


def test_defaults_in_kept_columns_are_counted_like_others(tmp_path):
    world = build_world(tmp_path)
    oracle = Oracle(world, publish_bundle(world))
    with serving(world) as (server, stub):
        reply = stub.Rank(rank(1, ["4", "5", "6", "7"]))
        null = {"status": "NULL_VALUE"}
        assert counted(server, "defaults_total", feature="catalogue:year", **null) == 1
        assert counted(server, "defaults_total", feature="catalogue:price", **null) == 1
        stub.Rank(rank(1, ["7", "8"]))
        assert counted(server, "defaults_total", feature="catalogue:year", **null) == 1
    user = oracle.user("1")
    assert_scores(reply, {i: oracle.probability(user, i) for i in ("4", "5", "6", "7")})


def test_a_required_feature_that_an_item_lacks_is_told_by_the_call_that_ranks_it(tmp_path):
    world = build_world(tmp_path)
    publish_bundle(world, change=alter_signature("ranking", Role.RANKER, "price", required=True))
    with serving(world) as (_, stub):
        assert len(stub.Rank(rank(1, ["5", "7"])).item_ids) == 2
        error = failure(stub.Rank, rank(1, ["5", "6"]))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "MISSING_FEATURE")
    assert "catalogue:price" in error.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_columns, "item_columns/0.npy can't be read"),
        (lambda staged: (staged / "models/ranking/ranker_cross.onnx").write_bytes(b"x"), "ranker_cross.onnx"),
    ],
    ids=["columns missing", "cross part altered"],
)
def test_a_bundle_whose_parts_are_not_whole_is_not_published(tmp_path, change: Callable[[Path], None], message):
    world = build_world(tmp_path)
    with pytest.raises(Exception, match=message):
        publish_bundle(world, change=change)
    assert current(world.bundles) is None
    with not_yet_ready(world) as server:
        assert not server.wait_until_ready(0.2)


class Both(nn.Module):
    """Takes an item's price together with the item, and once more beside the user's age."""

    inputs = (
        Input("age", "profile:age", Side.USER, DType.INT64, default=2),
        Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json"),
        Input("price", "catalogue:price", Side.ITEM, DType.FLOAT32, default=0.75),
    )

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS + 1, 8)
        self.tower = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 16))
        self.out = nn.Linear(17, 1)

    def forward(self, age: Tensor, item: Tensor, price: Tensor) -> Tensor:
        hidden = self.tower(torch.cat([self.items(item), (price / 5).clamp(-3, 3).unsqueeze(-1)], -1))
        gap = ((price - age) / 5).clamp(-3, 3).unsqueeze(-1)
        return torch.sigmoid(self.out(torch.cat([hidden, gap], -1))).squeeze(-1)


def test_a_feature_that_both_parts_take_is_overridden_in_both(tmp_path):
    torch.manual_seed(3)
    module = Both().eval()
    world = build_world(tmp_path)
    items = {"items.json": world.vocabularies()["items.json"]}
    world = replace(world, ranker=(Both.inputs, ranker(module, Both.inputs, items).model))
    folder = world.bundles / publish_bundle(world)
    split = Signature.load(folder / "models/ranking").graphs[Role.RANKER].split
    assert split is not None
    assert split.item is not None
    assert "price" in split.item.inputs
    assert "price" in split.cross.inputs, "otherwise this test proves nothing"

    def wanted(prices: list[float]) -> dict[str, float]:
        with torch.no_grad():
            scores = module(torch.tensor([1]), torch.arange(1, 5), torch.tensor(prices))
        return dict(zip(TEN[:4], scores.tolist(), strict=True))

    with serving(world) as (_, stub):
        assert_scores(stub.Rank(rank(1, TEN[:4])), wanted([n / 8 for n in range(1, 5)]))
        request = rank(1, TEN[:4])
        request.candidate_features["catalogue:price"].float_values.values.extend([9.0, 7.0, 5.0, 3.0])
        assert_scores(stub.Rank(request), wanted([9.0, 7.0, 5.0, 3.0]))


class TestFresh:
    """Views tagged `recsys/freshness: online` are read for the candidates of each request."""

    @staticmethod
    def build(tmp_path: Path, redis: str | None, **serving: object):
        world = build_world(tmp_path / "world", redis=redis, serving=serving)
        view = world.repo.store.get_feature_view("catalogue")
        view.tags = {"recsys/freshness": "online"}
        world.repo.store.apply([view])
        return replace(world, fresh=frozenset(FRESH_VIEW))

    @staticmethod
    def push(world, item: int, price: float) -> None:
        row = pd.DataFrame(
            {
                "item_id": [item],
                "event_timestamp": [datetime(2025, 6, 1, tzinfo=timezone.utc)],
                "title": ["new"],
                "year": pd.array([2], "Int64"),
                "genres": [["z"]],
                "price": np.array([price], np.float32),
                "adult": [True],
            }
        )
        world.repo.store.write_to_online_store("catalogue", row)

    def test_what_is_pushed_counts_with_the_next_call(self, tmp_path, redis_or_none):
        world = self.build(tmp_path, redis_or_none)
        oracle = Oracle(world, publish_bundle(world))
        with serving(world) as (_, stub):
            before = stub.Rank(rank(1, TEN))
            self.push(world, 3, 4.5)
            after, recommended = (
                stub.Rank(rank(1, TEN)),
                stub.Recommend(pb.RecommendRequest(recommender="both", user_id="1")),
            )
        user = oracle.user("1")
        wanted = {i: oracle.probability(user, i) for i in TEN}
        assert_scores(after, wanted)
        assert differs(before, wanted)
        assert not recommended.info.degraded_reasons
        for item, score, nearness in zip(
            recommended.item_ids, recommended.scores, recommended.retrieval_scores, strict=True
        ):
            assert abs(score - oracle.probability(user, item, retrieval_score=nearness)) < TOLERANCE

    def test_a_split_made_before_the_tag_is_served_whole(self, tmp_path, caplog):
        world = self.build(tmp_path, None)
        oracle = Oracle(world, publish_bundle(replace(world, fresh=frozenset())))
        with serving(world) as (_, stub):
            self.push(world, 3, 4.5)
            reply = stub.Rank(rank(1, TEN))
        user = oracle.user("1")
        assert_scores(reply, {i: oracle.probability(user, i) for i in TEN})
        assert "catalogue:price" in caplog.text
        assert "export it again" in caplog.text

    def test_without_the_store_the_snapshot_stands_in_and_the_answer_says_so(self, tmp_path, own_redis):
        world = self.build(tmp_path, own_redis.address, store_timeout_ms=300)
        oracle = Oracle(world, publish_bundle(world))
        snapshot = {i: oracle.probability({"entity:user_id": 1}, i) for i in TEN}
        with serving(world) as (_, stub):
            self.push(world, 3, 4.5)
            own_redis.kill()
            reply = stub.Rank(rank(1, TEN))
        assert list(reply.info.degraded_reasons) == ["ONLINE_STORE_UNAVAILABLE", "FRESH_ITEM_FEATURES_UNAVAILABLE"]
        assert_scores(reply, snapshot)

    def test_a_policy_to_fail_fails(self, tmp_path, own_redis):
        world = self.build(tmp_path, own_redis.address, store_timeout_ms=300, store_policy="fail")
        publish_bundle(world)
        with serving(world) as (_, stub):
            assert len(stub.Rank(rank(1, TEN)).item_ids) == 10
            own_redis.kill()
            assert failure(stub.Rank, rank(1, TEN)).code == "UNAVAILABLE"

    def test_a_tag_of_another_value_is_refused(self, tmp_path):
        world = build_world(tmp_path)
        view = world.repo.store.get_feature_view("catalogue")
        view.tags = {"recsys/freshness": "sometimes"}
        world.repo.store.apply([view])
        bundle = open_bundle(world.bundles / publish_bundle(world))
        with pytest.raises(Exception, match=r"catalogue.*online.*snapshot"):
            prepare(world.repo, bundle)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[Parts, int]:
    """A split ranker that may be stacked, and the number of items."""
    world = build_world(tmp_path_factory.mktemp("stacked"))
    bundle = open_bundle(world.bundles / publish_bundle(world))
    ranker = prepare(world.repo, bundle).recommenders["both"].ranking()
    assert ranker.parts is not None
    assert ranker.parts.split.stackable
    return ranker.parts, len(bundle.snapshot)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_candidates_of_several_callers_in_one_run_score_as_they_do_alone(parts, data):
    ranker, items = parts
    batch = []
    for _ in range(data.draw(st.integers(1, 5), "callers")):
        rows = np.array(data.draw(st.lists(st.integers(0, items - 1), min_size=1, max_size=12)), np.int64)
        user = {
            "age": np.array([data.draw(st.integers(-3, 9))]),
            "gender": np.array([data.draw(st.sampled_from(["f", "m", "?"]))], object),
            "history": np.array([data.draw(st.lists(st.integers(0, 45), min_size=1, max_size=3))], np.int64),
            "hour": np.array([data.draw(st.integers(0, 23))]),
            "spend": np.array([data.draw(st.floats(0, 4, width=32))], np.float32),
            "user": np.array([data.draw(st.sampled_from([*USERS, 99]))]),
        }
        n = len(rows)
        raw = {
            "retrieval_score": np.array(
                data.draw(st.lists(st.floats(-2, 2, width=32), min_size=n, max_size=n)), np.float32
            ),
            "discount": np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), np.int64),
        }
        batch.append(Candidates(user, rows, raw))
    together = run_stacked(ranker, batch)
    assert [len(scores) for scores in together] == [len(candidates.rows) for candidates in batch]
    for candidates, scores in zip(batch, together, strict=True):
        [alone] = run_stacked(ranker, [candidates])
        np.testing.assert_allclose(scores, alone, atol=TOLERANCE)


def test_callers_at_the_same_time_get_their_own_rows(tmp_path):
    world = build_world(tmp_path, serving={"batch_candidates": 64})
    oracle = Oracle(world, publish_bundle(world))
    wanted = {u: {i: oracle.probability(oracle.user(str(u)), i) for i in world.item_ids} for u in (1, 2, 3, 99)}
    random = np.random.default_rng(0)
    asked = [
        (int(u), random.permutation(world.item_ids)[: 1 + n % 40].tolist()) for n, u in enumerate([1, 2, 3, 99] * 60)
    ]
    with serving(world) as (_, stub), ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda a: stub.Rank(rank(a[0], a[1])), asked))
    for (user, items), reply in zip(asked, replies, strict=True):
        assert_scores(reply, {i: wanted[user][i] for i in items})


def test_a_device_that_is_not_there_is_refused_with_a_remedy(tmp_path, caplog):
    """Where ONNX Runtime has CUDA and a GPU, the same server gives the same answers on it."""
    world = build_world(tmp_path, serving={"device": "cuda"})
    oracle = Oracle(world, publish_bundle(world))
    if "CUDAExecutionProvider" in ort.get_available_providers():
        with serving(world) as (_, stub):
            reply = stub.Rank(rank(1, TEN))
        user = oracle.user("1")
        wanted = {i: oracle.probability(user, i) for i in TEN}
        np.testing.assert_allclose(reply.scores, [wanted[i] for i in reply.item_ids], atol=1e-3)
        return
    with not_yet_ready(world) as server:
        wait_for(lambda: counted(server, "bundle_failures_total") >= 1, "the refusal")
    assert "recsys.serving.device is cuda" in caplog.text
    assert "pip install onnxruntime-gpu" in caplog.text
