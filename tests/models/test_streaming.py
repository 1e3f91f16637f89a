"""Joined features on disk are those in memory, row for row, without ever being in memory as a whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shop import build_shop

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument
from feast_recsys.features.streaming import MANIFEST_FILE, JoinedSet, chunk_path, write_chunks
from feast_recsys.models.data.streaming import BlockShuffle, MappedColumns, MappedTensor, open_joined
from feast_recsys.models.data.training_data import DataConfig, load_data
from feast_recsys.models.inputs.fitter import InputFitter
from feast_recsys.models.inputs.tensors import model_tensors


def numbered(start: int, end: int) -> pa.Table:
    return pa.table({"row": np.arange(start, end)})


def joining(columns: Mapping[str, Column]) -> Callable[[pa.Table], dict[str, Column]]:
    """Row n of the training set has what row n of the columns has."""
    return lambda table: {name: column.take(table["row"].to_numpy()) for name, column in columns.items()}


def written(folder: Path, columns: Mapping[str, Column], chunk: int) -> MappedColumns:
    joined = JoinedSet(tuple(columns), len(next(iter(columns.values()))), chunk)
    write_chunks(folder, joined, numbered, joining(columns))
    return open_joined(folder)


def assert_same(one: Column, other: Column) -> None:
    assert one.dtype is other.dtype
    assert one.values.dtype == other.values.dtype
    for name in ("values", "status", "valid", "timestamps", "offsets"):
        mine, others = getattr(one, name), getattr(other, name)
        assert (mine is None) == (others is None)
        if mine is not None:
            assert mine.dtype == others.dtype
            np.testing.assert_array_equal(mine, others)  # NaN equals NaN here


# What is written is read


ITEMS: dict[DType, st.SearchStrategy[Any]] = {
    DType.INT64: st.integers(-(2**63), 2**63 - 1),
    DType.FLOAT32: st.floats(width=32),
    DType.BOOL: st.booleans(),
    DType.STRING: st.text(max_size=4),
}


@st.composite
def columns(draw: st.DrawFn, n: int) -> Column:
    dtype, is_list = draw(st.sampled_from(list(DType))), draw(st.booleans())
    item = st.lists(ITEMS[dtype], max_size=4) if is_list else ITEMS[dtype]
    items = draw(st.lists(st.none() | item, min_size=n, max_size=n))
    made = Column.of(dtype, items, is_list=is_list, timestamps=np.arange(n) * 10**9)
    expired = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_) & made.valid
    status = np.where(expired, FieldStatus.OUTSIDE_MAX_AGE, made.status).astype(np.uint8)
    return Column(dtype, made.values, status, made.valid & ~expired, made.timestamps, made.offsets)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_mapped_columns_are_columns(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    n = data.draw(st.integers(0, 9), "rows")
    whole = {name: data.draw(columns(n), name) for name in ("view:a", "view:b")}
    mapped = written(tmp_path_factory.mktemp("joined"), whole, data.draw(st.integers(1, 10), "chunk"))
    assert (list(mapped), mapped.rows) == (list(whole), n)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=12) if n else st.just([])), np.int64)
    for name, column in whole.items():
        assert len(mapped[name]) == n
        assert_same(mapped[name].take(rows), column.take(rows))


def test_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    mapped = written(tmp_path, {"view:a": Column.of(DType.INT64, [1, 2, 3])}, 2)["view:a"]
    for rows in ([3], [-1]):
        with pytest.raises(IndexError, match=r"rows must lie in 0\.\.2"):
            mapped.take(np.array(rows))


# Going on


def test_a_join_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    whole = {"view:a": Column.of(DType.STRING, [str(n) for n in range(10)])}
    wanted, asked = JoinedSet(("view:a",), 10, 3), []
    told: list[tuple[int, int]] = []

    def join(table: pa.Table) -> dict[str, Column]:
        asked.append(table["row"].to_pylist())
        if len(asked) == 3:
            raise ConnectionError
        return joining(whole)(table)

    def go(rows: Callable[[int, int], pa.Table] = numbered) -> None:
        write_chunks(tmp_path, wanted, rows, join, lambda done, total: told.append((done, total)))

    with pytest.raises(ConnectionError):
        go()
    with pytest.raises(CorruptArtifact, match=r"000002\.arrow can't be read: .*; remove it and join again"):
        open_joined(tmp_path)
    go()
    assert asked == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [6, 7, 8], [9]]
    assert told == [(3, 10), (6, 10), (3, 10), (6, 10), (9, 10), (10, 10)]
    assert open_joined(tmp_path)["view:a"].take(np.arange(10)).to_list() == [str(n) for n in range(10)]
    # A chunk that is broken, or was made from other rows, is joined again; the others stay.
    chunk_path(tmp_path, 1).write_bytes(chunk_path(tmp_path, 1).read_bytes()[:-20])
    asked.clear()
    go()
    assert asked == [[3, 4, 5]]
    asked.clear()
    go(lambda start, end: numbered(start, end) if start else numbered(7, 10))
    assert asked == [[7, 8, 9]]
    assert open_joined(tmp_path)["view:a"].take(np.arange(4)).to_list() == ["7", "8", "9", "3"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    whole = {"view:a": Column.of(DType.INT64, [1, 2, 3])}
    folder = tmp_path / "joined"
    written(folder, whole, 2)
    for wanted in (JoinedSet(("view:b",), 3, 2), JoinedSet(("view:a",), 4, 2), JoinedSet(("view:a",), 3, 1)):
        with pytest.raises(InvalidArgument, match="holds the join of other features or rows"):
            write_chunks(folder, wanted, numbered, joining(whole))
    with pytest.raises(InvalidArgument, match="holds something else"):
        write_chunks(tmp_path, JoinedSet(("view:a",), 3, 2), numbered, joining(whole))
    with pytest.raises(InvalidArgument, match="chunk must be at least 1"):
        write_chunks(folder, JoinedSet(("view:a",), 3, 0), numbered, joining(whole))
    with pytest.raises(InvalidArgument, match="3 rows were given for rows 0 to 2"):
        write_chunks(folder, JoinedSet(("view:a",), 3, 2), lambda start, end: numbered(0, 3), joining(whole))


def test_broken_files_are_named(tmp_path: Path) -> None:
    whole = {"view:a": Column.of(DType.INT64, [1, 2, 3])}
    written(tmp_path / "a", whole, 2)
    written(tmp_path / "b", {"view:a": Column.of(DType.FLOAT32, [1, 2, 3])}, 2)
    last = chunk_path(tmp_path / "a", 1)
    for content, message in (
        (chunk_path(tmp_path / "a", 0).read_bytes(), "it has 2 rows"),
        (chunk_path(tmp_path / "b", 1).read_bytes(), "its types differ from those of the first file"),
        (b"", "can't be read"),
    ):
        last.write_bytes(content)
        with pytest.raises(CorruptArtifact, match=f"000001.arrow can't be read: .*{message}|{message}"):
            open_joined(tmp_path / "a")
    manifest = tmp_path / "a" / MANIFEST_FILE
    for text, message in (('{"version": 9}', "of another version"), ("[]", "can't be read"), ("{", "can't be read")):
        manifest.write_text(text)
        with pytest.raises(CorruptArtifact, match=message):
            open_joined(tmp_path / "a")
    with pytest.raises(CorruptArtifact, match=r"joined\.json can't be read"):
        open_joined(tmp_path / "nowhere")


# Memory


def peak(work: Callable[[], object]) -> int:
    """Most bytes that Python, NumPy and Arrow had allocated at once."""
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    most = 0
    tracemalloc.start()
    try:
        for _ in iter(work() or ()):  # type: ignore[call-overload]
            most = max(most, pool.bytes_allocated() - before)
        return tracemalloc.get_traced_memory()[1] + most
    finally:
        tracemalloc.stop()


ROWS, LENGTH, CHUNK = 40_000, 50, 2_000
LARGE = ROWS * LENGTH * 8  # bytes: 16 MB


def generated(table: pa.Table) -> dict[str, Column]:
    """A history of 50 items and a number a row."""
    rows = table["row"].to_numpy()
    n = len(rows)
    present, times = np.ones(n, np.bool_), np.zeros(n, np.int64)
    status = np.full(n, FieldStatus.PRESENT, np.uint8)
    history = (rows[:, None] + np.arange(LENGTH)).reshape(-1)
    offsets = np.arange(n + 1) * LENGTH
    return {
        "user:history": Column(DType.INT64, history, status, present, times, offsets),
        "user:number": Column(DType.FLOAT32, rows.astype(np.float32), status, present, times),
    }


def test_memory_grows_with_the_buffer_and_not_with_the_set(tmp_path: Path) -> None:
    wanted = JoinedSet(("user:history", "user:number"), ROWS, CHUNK)
    assert peak(lambda: write_chunks(tmp_path, wanted, numbered, generated) and None) < LARGE / 4
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > LARGE
    seen = np.zeros(ROWS, np.int64)
    shuffle = BlockShuffle(ROWS, batch=256, block=256, buffer=4096)

    def epoch() -> Any:
        mapped = open_joined(tmp_path)
        for rows in shuffle.batches(np.random.default_rng(0)):
            history, number = mapped["user:history"].take(rows), mapped["user:number"].take(rows)
            np.testing.assert_array_equal(history.values.reshape(-1, LENGTH), rows[:, None] + np.arange(LENGTH))
            np.testing.assert_array_equal(number.values, rows)
            seen[rows] += 1
            yield

    assert peak(epoch) < LARGE / 8
    assert (seen == 1).all()
    # The measure does see what is read at once.
    assert peak(lambda: [open_joined(tmp_path)["user:history"].take(np.arange(ROWS))]) > LARGE


# The order


@settings(deadline=None)
@given(
    rows=st.integers(0, 200), batch=st.integers(1, 20), block=st.integers(1, 20), more=st.integers(0, 60),
    drop_last=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_every_row_comes_once_an_epoch(
    rows: int, batch: int, block: int, more: int, drop_last: bool, seed: int
) -> None:
    shuffle = BlockShuffle(rows, batch, block, max(batch, block) + more, drop_last)
    batches = list(shuffle.batches(np.random.default_rng(seed)))
    assert len(batches) == len(shuffle)
    assert all(len(b) == batch for b in batches[:-1])
    together = np.concatenate([np.empty(0, np.int64), *batches])
    if drop_last:
        assert all(len(b) == batch for b in batches)
        assert len(np.unique(together)) == len(together) == rows // batch * batch
    else:
        assert np.array_equal(np.sort(together), np.arange(rows))
    again = shuffle.batches(np.random.default_rng(seed))
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_rows_are_shuffled_within_a_buffer_of_blocks() -> None:
    shuffle = BlockShuffle(10_000, batch=100, block=50, buffer=1000)
    order = np.concatenate(list(shuffle.batches(np.random.default_rng(1))))
    for buffer in order.reshape(10, 1000):
        assert len(np.unique(buffer // 50)) == 20  # no block is read twice
        assert abs(np.corrcoef(np.arange(1000), buffer)[0, 1]) < 0.15
    assert np.unique(order[:1000] // 1000).size > 5  # blocks come from all over the set
    other = np.concatenate(list(shuffle.batches(np.random.default_rng(2))))
    assert not np.array_equal(order, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 1, "block": 0}, "block must be at least 1"),
        ({"batch": 9, "block": 2, "buffer": 8}, "buffer must hold a block and a batch, not 8 rows"),
    ],
)
def test_orders_that_can_not_be_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        BlockShuffle(10, **options)


# A recommender's training data


def test_models_see_the_same_from_disk_as_from_memory(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop", DType.STRING)
    memory = load_data(shop.repo, "shop")
    config = DataConfig(folder=tmp_path / "joined", chunk=500)
    disk = load_data(shop.repo, "shop", config)
    assert len(list((tmp_path / "joined" / "user").glob("*.arrow"))) > 2
    assert disk.fingerprint == memory.fingerprint
    fitted = [InputFitter(d, 20) for d in (memory, disk)]
    schemas = (*memory.query_schemas, *memory.item_schemas, *memory.ranking_schemas)
    one, other = (f.fit(schemas, (f.item_id(),)) for f in fitted)
    assert one.specs == other.specs
    assert one.knots == other.knots
    assert {file: v.keys for file, v in one.vocabularies.items()} == {
        file: v.keys for file, v in other.vocabularies.items()
    }
    here, there = (model_tensors(d, one.specs, one.vocabularies) for d in (memory, disk))
    assert any(isinstance(rows, MappedTensor) and rows.spec.is_list for rows in there.user.values())
    random = np.random.default_rng(0)

    def same(mine: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
        assert list(mine) == list(others)
        for name, tensor in mine.items():
            assert torch.equal(tensor, others[name]), name
            assert tensor.dtype is others[name].dtype

    for count in (0, 1, 300):
        states: npt.NDArray[np.int64] = random.integers(0, len(memory.state_keys), count)
        same(here.users(states), there.users(states))
        rows = random.integers(0, len(memory.days) * memory.items, count)
        same(here.items(rows), there.items(rows))
