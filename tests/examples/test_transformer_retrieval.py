"""The example of a model of one's own goes the way of its README, on a small repository of invented likes."""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from feast.types import Array, Int64, String
from support.feast_repo import TIMESTAMP, View, at, feast_repo
from support.serving import connected

from feast_recsys.bundle.signature import from_dict
from feast_recsys.cli.main import cli
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "transformer_retrieval"
USERS, ITEMS, LIKES, LENGTH = 24, 30, 14, 50
GENRES = ("Comedy", "Drama", "Sci-Fi")
NEWCOMER, NEW_ITEM = 999, 31
QUICK = ["--epochs", "2", "--batch", "8", "--stride", "3", "--width", "16", "--layers", "1"]
KIND = pa.timestamp("us", "UTC")


def genres_of(item: int) -> list[str]:
    return [GENRES[item % 3]] if item % 5 else []


def likes() -> pd.DataFrame:
    """Each user likes movies of one genre, one after the other."""
    random, rows = np.random.default_rng(3), []
    for user in range(1, USERS + 1):
        own = [i for i in range(1, ITEMS + 1) if i % 3 == user % 3]
        for n, item in enumerate(random.choice(own, min(LIKES, len(own)), replace=False).tolist()):
            rows.append((user, item, 5.0, at(1000.0 * n + user)))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rating", TIMESTAMP])


def histories(table: pd.DataFrame) -> pa.Table:
    """As of each like and including it, most recent first."""
    rows = []
    for user, own in table.groupby("user_id"):
        items = own["item_id"].tolist()
        rows += [(user, items[n::-1], moment) for n, moment in enumerate(own[TIMESTAMP])]
    users, lists, moments = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_ids": lists, TIMESTAMP: pa.array(moments, KIND)})


def movies() -> pa.Table:
    items = [*range(1, ITEMS + 1), NEW_ITEM]
    moments = pa.array([at(-10)] * len(items), KIND)
    genres = pa.array([genres_of(i) for i in items], pa.list_(pa.string()))
    return pa.table({"item_id": items, "title": [f"Movie {i}" for i in items], "genres": genres, TIMESTAMP: moments})


def build_repo(folder: Path) -> Repo:
    """What the example expects: the names of `feature_repo/`, and a recommender `transformer`."""
    table = likes()
    retrieval = {"query": "retrieval_query", "item": "retrieval_item", "history": "user_history:item_ids"}
    repo = feast_repo(
        folder,
        [
            View("user_history", "user", {"item_ids": Array(Int64)}, histories(table)),
            View("item_profile", "item", {"title": String, "genres": Array(String)}, movies()),
        ],
        services={"retrieval_query": ["user_history:item_ids"], "retrieval_item": ["item_profile:genres"]},
        settings={
            "catalogue": "item_profile",
            "interactions": {"path": "likes.parquet", "label": "rating", "positive_from": 4},
            "recommenders": {"transformer": {"retrieval": retrieval, "ranking": None, "candidates": 5}},
        },
    )
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), folder / "likes.parquet")
    return repo


@dataclass(frozen=True)
class Example:
    """The modules of the example."""

    model: Any
    train: Any


@dataclass(frozen=True)
class Trained:
    """A repository whose recommender is in service, and where the example wrote."""

    folder: Path
    build: Path
    said: str


@pytest.fixture(scope="module")
def example() -> Iterator[Example]:
    """Both files of the example, imported as where one runs them."""
    names = ("model", "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tensors of a few numbers: two threads wait for each other
        yield Example(*(importlib.import_module(name) for name in names))
    torch.set_num_threads(threads)
    for name in names:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def trained(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The commands of the README, in its order."""
    folder, work = tmp_path_factory.mktemp("repo"), tmp_path_factory.mktemp("work")
    build_repo(folder)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.chdir(work)
        example.train.main([str(folder), *QUICK])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for command in (
            ["export", "--module", "model:load", "--signature", "build/model.yaml"],
            ["materialize"],
            ["doctor"],
        ):
            result = CliRunner().invoke(cli, ["-c", str(folder), *command])
            assert result.exit_code == 0, (result.output, result.exception)
    return Trained(folder, work / "build", said.getvalue())


def rows(build: Path, name: str) -> dict[int | str, int]:
    """Row of each key, as PyTorch counts them."""
    return {key: n for n, key in enumerate(json.loads((build / name).read_text("utf-8")), start=1)}


def expected(model: Any, build: Path, history: list[int]) -> dict[str, float]:
    """Scores of the whole catalogue by PyTorch alone."""
    encoders, items, genres = model.load(build), rows(build, "items.json"), rows(build, "genres.json")
    past = torch.tensor([[items.get(i, 0) for i in history] or [0]])
    catalogue = [*range(1, ITEMS + 1), NEW_ITEM]
    listed = [([genres[g] for g in genres_of(i)] or [0])[0] for i in catalogue]
    with torch.no_grad():
        query = encoders["query_encoder"](history=past)
        item = torch.tensor([items.get(i, 0) for i in catalogue])
        vectors = encoders["item_encoder"](item=item, genres=torch.tensor(listed).unsqueeze(1))
    return dict(zip(map(str, catalogue), (query @ vectors.T)[0].tolist(), strict=True))


@pytest.mark.parametrize("user", [1, 7, NEWCOMER])
def test_what_is_served_are_the_scores_that_pytorch_gives(example: Example, trained: Trained, user: int) -> None:
    own = likes()
    history = own[own["user_id"] == user]["item_id"].tolist()[::-1]
    wanted = expected(example.model, trained.build, history)
    server = Server(open_repo(trained.folder))
    server.start()
    try:
        assert server.wait_until_ready(30)
        with connected(server) as stub:
            reply = stub.Retrieve(pb.RetrieveRequest(user_id=str(user), top_k=ITEMS + 1))
    finally:
        server.stop(0)
    assert len(reply.item_ids) == ITEMS + 1
    assert dict(zip(reply.item_ids, reply.scores, strict=True)) == pytest.approx(wanted, abs=1e-5)
    assert reply.info.user_status == (pb.USER_STATUS_UNKNOWN if user == NEWCOMER else pb.USER_STATUS_KNOWN)


def test_training_says_what_it_measured(trained: Trained) -> None:
    first, *_, last = trained.said.splitlines()
    assert re.fullmatch(r"epoch 1: loss \d+\.\d{4}, validation recall@5 [01]\.\d{4}, .* s", first)
    assert re.fullmatch(r"epoch [12]: test recall@5 [01]\.\d{4} \([01]\.\d{4} to [01]\.\d{4}\)", last)


def test_the_page_shows_the_loop_and_the_signature_as_they_are_and_quotes_real_messages() -> None:
    page = (ROOT / "docs" / "bring-your-own.md").read_text("utf-8")
    signature = yaml.safe_load(next(b for b in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "graphs:" in b))
    assert from_dict(signature).name == "transformer_retrieval"
    model, train = (re.sub(r"\s+", "", (EXAMPLE / f"{n}.py").read_text("utf-8")) for n in ("model", "train"))
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        for line in (re.sub(r"\s+", "", line.partition("#")[0]) for line in block.splitlines()):
            if line.startswith(("def", "class", "data=", "forrows", "...")):  # shortened
                continue
            assert line in model or line in train, line
    files = [path for room in ("exporters", "bundle", "jobs") for path in (ROOT / room).rglob("*.py")]
    source = re.sub(r'"\s+f?"', "", "".join(path.read_text("utf-8") for path in files))
    for message in re.findall(r"^\| `(.*?)` \|", page.partition("## When it does not")[2], re.MULTILINE):
        if message != "forward() fixes the length of the list":  # put together from two parts
            assert message in source, message


@pytest.fixture(scope="module")
def encoder(example: Example) -> Any:
    torch.manual_seed(0)
    return example.model.build(example.model.Config(items=40, genres=4, width=16)).eval()["query_encoder"]


@torch.no_grad()
def test_every_length_gives_a_unit_vector_and_padding_changes_nothing(encoder: Any) -> None:
    for length in (0, 1, 2, 3, 7, 25, LENGTH - 1, LENGTH):
        history = torch.randint(1, 40, (3, length))
        padded = [torch.nn.functional.pad(history, (0, pad)) for pad in (0, 1, LENGTH - length) if length + pad]
        vectors = [encoder(history=rows) for rows in padded if rows.shape[1] <= LENGTH]
        torch.testing.assert_close(vectors[0].norm(dim=-1), torch.ones(3))
        for other in vectors[1:]:
            torch.testing.assert_close(other, vectors[0])


@torch.no_grad()
def test_a_state_knows_what_is_older_and_nothing_newer(encoder: Any) -> None:
    history = torch.randint(1, 40, (2, 12))
    states = encoder.states(history)
    for place in range(12):
        torch.testing.assert_close(states[:, place], encoder(history=history[:, place:]))
    newer, older = history.clone(), history.clone()
    newer[:, :6] = 39 - newer[:, :6].clamp(max=38)
    older[:, 6:] = 39 - older[:, 6:].clamp(max=38)
    torch.testing.assert_close(encoder.states(newer)[:, 6:], states[:, 6:])
    assert not torch.allclose(encoder.states(older)[:, :6], states[:, :6])
