"""A snapshot gives back what was written, finds ids only as they are, and copies nothing into memory on opening."""

from __future__ import annotations

import hashlib
import mmap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.snapshot import UNKNOWN_ROW, open_snapshot, write_snapshot

ELEMENTS = {
    DType.INT64: st.integers(-(2**63), 2**63 - 1),
    DType.FLOAT32: st.floats(width=32, allow_nan=False),
    DType.BOOL: st.booleans(),
    DType.STRING: st.text(max_size=5),
}
INT_IDS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), unique=True, max_size=8)
TEXT_IDS = st.lists(st.text(min_size=1, max_size=5).filter(lambda t: not t.endswith("\0")), unique=True, max_size=8)
FEATURES = [(f"view:{d.value}{'s' if many else ''}", d, many) for d in DType for many in (False, True)]


def write(folder, ids, columns):
    keys = np.array(ids, np.int64) if ids and isinstance(ids[0], int) else np.array(ids, object)
    write_snapshot(folder, keys, columns)
    return open_snapshot(folder)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_columns_come_back_as_they_were(tmp_path_factory, data):
    ids = sorted(data.draw(st.one_of(INT_IDS, TEXT_IDS)))
    stamps = np.arange(len(ids), dtype=np.int64) * 10
    items, columns = {}, {}
    for reference, dtype, many in FEATURES:
        value = st.lists(ELEMENTS[dtype], max_size=3) if many else ELEMENTS[dtype]
        items[reference] = data.draw(st.lists(st.none() | value, min_size=len(ids), max_size=len(ids)))
        columns[reference] = Column.of(dtype, items[reference], is_list=many, timestamps=stamps)
    snapshot = write(tmp_path_factory.mktemp("snapshot"), ids, columns)
    assert snapshot.references == tuple(columns)
    assert len(snapshot) == len(ids)
    for reference, dtype, many in FEATURES:
        column = snapshot.column(reference)
        assert (snapshot.dtype(reference), snapshot.is_list(reference)) == (dtype, many)
        assert column.to_list() == items[reference]
        assert column.values.dtype == dtype.numpy
        assert column.status.tolist() == columns[reference].status.tolist()
        assert column.timestamps.tolist() == stamps.tolist()
        assert snapshot.valid(reference).tolist() == columns[reference].valid.tolist()
    if ids:
        rows = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=10)), np.int64)
        for reference, _, _ in FEATURES:
            assert snapshot.gather(reference, rows).to_list() == [items[reference][row] for row in rows]


@settings(deadline=None, max_examples=60)
@given(st.one_of(INT_IDS, TEXT_IDS), st.lists(st.text(max_size=6)))
def test_every_id_has_its_row_and_other_text_has_none(tmp_path_factory, unsorted, others):
    ids = sorted(unsorted)
    snapshot = write(tmp_path_factory.mktemp("snapshot"), ids, {})
    texts = [str(i) for i in ids]
    oracle = {text: row for row, text in enumerate(texts)}
    wanted = [*texts, *others, *texts[::-1]]
    assert snapshot.rows(wanted).tolist() == [oracle.get(text, UNKNOWN_ROW) for text in wanted]
    everything = np.arange(len(ids))
    assert snapshot.ids_of(everything) == texts
    assert snapshot.keys_of(everything).tolist() == ids


@pytest.mark.parametrize("text", ["007", "+7", " 7", "7 ", "7.0", "7_0", "\u0667", "", "-", "0x7", "9" * 20, "x"])
def test_only_the_plain_form_of_an_integer_id_counts(tmp_path, text):
    snapshot = write(tmp_path, [7, 70], {})
    assert snapshot.rows([text]).tolist() == [UNKNOWN_ROW]


@pytest.mark.parametrize("text", ["abcd", "abc\0", "ab", "ABC", "", "abc ", "é" * 3])
def test_a_longer_padded_or_similar_string_is_another_id(tmp_path, text):
    snapshot = write(tmp_path, ["abc", "xyz"], {})
    assert snapshot.rows([text, "abc"]).tolist() == [UNKNOWN_ROW, 0]


def test_no_ids_have_no_rows(tmp_path):
    snapshot = write(tmp_path, [7], {})
    assert snapshot.rows([]).tolist() == []
    assert snapshot.rows_of_keys(np.empty(0, np.int64)).tolist() == []


@pytest.mark.parametrize("ids", [[7, 70], [-(2**63), 7, 2**63 - 1], ["007", "7", "x"]], ids=["near", "far", "text"])
@pytest.mark.parametrize("keys", [[7, 8, -7, -(2**63)], ["7", "007", "x", "y"]], ids=["numbers", "texts"])
def test_ids_by_their_feast_type_have_the_rows_of_their_text(tmp_path, ids, keys):
    snapshot = write(tmp_path, ids, {})
    array = np.array(keys, np.int64 if isinstance(keys[0], int) else object)
    oracle = {str(item): row for row, item in enumerate(ids)}
    assert snapshot.rows_of_keys(array).tolist() == [oracle.get(str(key), UNKNOWN_ROW) for key in keys]


def test_the_same_items_give_the_same_files(tmp_path):
    """Bundles carry checksums of their files; two jobs over one catalogue must agree on them."""
    digests = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, ["a", "b"], {"a:x": Column.of(DType.INT64, [1, 2])})
        files = sorted((tmp_path / name).iterdir())
        digests.add(tuple((f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files))
    assert len(digests) == 1
    assert [name for name, _ in digests.pop()] == ["features.arrow", "ids.npy", "rows.npy"]


def test_threads_that_open_columns_at_once_see_the_same(tmp_path):
    columns = {reference: Column.of(dtype, [[], []] if many else [None, None], is_list=many)
               for reference, dtype, many in FEATURES}  # fmt: skip
    for _ in range(20):
        snapshot = write(tmp_path, [1, 2], columns)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(snapshot.column, [*columns] * 8))
        for column, name in zip(found, [*columns] * 8, strict=True):
            assert column.dtype is columns[name].dtype
            assert column.to_list() == columns[name].to_list()


@pytest.mark.parametrize("ids", [np.empty(0, np.int64), np.empty(0, object)], ids=["integers", "strings"])
def test_an_empty_catalogue_is_a_catalogue(tmp_path, ids):
    columns = {reference: Column.of(dtype, [], is_list=many) for reference, dtype, many in FEATURES}
    write_snapshot(tmp_path, ids, columns)
    snapshot = open_snapshot(tmp_path)
    assert len(snapshot) == 0
    assert snapshot.key_dtype is (DType.INT64 if ids.dtype == np.int64 else DType.STRING)
    assert snapshot.rows(["7"]).tolist() == [UNKNOWN_ROW]
    assert snapshot.rows_of_keys(np.array([7])).tolist() == [UNKNOWN_ROW]
    assert snapshot.ids_of(np.empty(0, np.int64)) == []
    for reference, dtype, many in FEATURES:
        column = snapshot.column(reference)
        assert (column.to_list(), column.dtype, column.is_list) == ([], dtype, many)
        assert snapshot.valid(reference).tolist() == []


def test_one_view_has_one_timestamp_per_item(tmp_path):
    first = Column.of(DType.INT64, [1, 2], timestamps=np.array([5, 6]))
    other = Column.of(DType.INT64, [1, 2], timestamps=np.array([7, 8]))
    snapshot = write(tmp_path, [1, 2], {"a:x": first, "a:y": first, "b:x": other})
    assert snapshot.column("a:y").timestamps.tolist() == [5, 6]
    assert snapshot.column("b:x").timestamps.tolist() == [7, 8]


def test_statuses_and_usability_are_kept_apart(tmp_path):
    status = np.array([FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND], np.uint8)
    column = Column(DType.INT64, np.array([5, 0]), status, np.array([True, False]), np.zeros(2, np.int64))
    snapshot = write(tmp_path, [1, 2], {"a:x": column})
    assert snapshot.column("a:x").status.tolist() == status.tolist()
    assert snapshot.column("a:x").to_list() == [5, None]


def test_an_unknown_feature_is_a_key_error(tmp_path):
    snapshot = write(tmp_path, [1], {"a:x": Column.of(DType.INT64, [1])})
    for ask in (snapshot.column, snapshot.dtype, snapshot.is_list, snapshot.arrow, snapshot.valid):
        with pytest.raises(KeyError):
            ask("a:y")


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], ["b", "a"], ["a", "a"]])
def test_ids_are_ascending_and_distinct(tmp_path, ids):
    with pytest.raises(ValueError, match="ascending and distinct"):
        write(tmp_path, ids, {})


@pytest.mark.parametrize("ids", [["", "a"], ["a\0"]])
def test_ids_that_a_file_of_fixed_width_would_change_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="empty or ends in NUL"):
        write(tmp_path, ids, {})


def test_columns_have_a_row_per_item(tmp_path):
    with pytest.raises(ValueError, match="a:x has 1 rows for 2 items"):
        write(tmp_path, [1, 2], {"a:x": Column.of(DType.INT64, [1])})


def test_files_are_mapped_not_read(tmp_path):
    n = 200_000
    columns = {
        "a:number": Column.of(DType.FLOAT32, np.arange(n, dtype=np.float32).tolist()),
        "a:numbers": Column(DType.INT64, np.arange(n), np.ones(n, np.uint8), np.ones(n, bool), np.zeros(n, np.int64),
                            np.arange(n + 1)),
    }  # fmt: skip
    write_snapshot(tmp_path, np.arange(n), columns)
    before = pa.total_allocated_bytes()
    snapshot = open_snapshot(tmp_path)
    column, numbers = snapshot.arrow("a:number"), snapshot.arrow("a:numbers")
    assert pa.total_allocated_bytes() - before < n  # one byte per row would already be a copy
    assert column.to_numpy(zero_copy_only=True)[-1] == n - 1
    assert numbers.values.to_numpy(zero_copy_only=True)[-1] == n - 1
    base = snapshot.ids
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


@pytest.mark.parametrize("name", ["ids.npy", "rows.npy", "features.arrow"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut"])
def test_a_broken_file_is_refused_by_name(tmp_path, name, damage):
    write(tmp_path, list(range(100)), {"a:x": Column.of(DType.INT64, list(range(100)))})
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 100, "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(CorruptArtifact, match=name.replace(".", r"\.")):
        open_snapshot(tmp_path)


def test_files_of_two_snapshots_do_not_fit(tmp_path):
    for name, n in [("a", 2), ("b", 3)]:
        (tmp_path / name).mkdir()
        write(tmp_path / name, list(range(n)), {"a:x": Column.of(DType.INT64, list(range(n)))})
    (tmp_path / "a" / "ids.npy").write_bytes((tmp_path / "b" / "ids.npy").read_bytes())
    with pytest.raises(CorruptArtifact, match=r"features\.arrow has 2 rows for 3 ids"):
        open_snapshot(tmp_path / "a")


def test_a_table_of_other_ids_does_not_fit(tmp_path):
    write(tmp_path, [1, 2], {})
    np.save(tmp_path / "rows.npy", np.zeros(3, np.int32))
    with pytest.raises(CorruptArtifact, match=r"rows\.npy holds \(3,\) int32, not the rows of 2 ids"):
        open_snapshot(tmp_path)


@pytest.mark.parametrize(
    ("ids", "held"),
    [(np.zeros((1, 2)), r"\(1, 2\) float64"), (np.array([b"abc"]), r"\(1,\) \|S3")],
)
def test_ids_of_another_type_are_no_snapshot(tmp_path, ids, held):
    write(tmp_path, [1], {})
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(CorruptArtifact, match=rf"ids\.npy holds {held}"):
        open_snapshot(tmp_path)


def test_texts_are_coded_where_they_repeat(tmp_path):
    texts = ["red", "blue", "red", "red", ""] * 8
    columns = {
        "view:colour": Column.of(DType.STRING, texts),
        "view:colours": Column.of(DType.STRING, [[text, "red"] for text in texts], is_list=True),
        "view:title": Column.of(DType.STRING, [f"title {n}" for n in range(40)]),
        "view:price": Column.of(DType.FLOAT32, [1.0] * 40),
    }
    write_snapshot(tmp_path, np.arange(40), columns)
    snapshot = open_snapshot(tmp_path)
    assert snapshot.references == tuple(columns)
    assert snapshot.coded("view:colour").to_pylist() == texts
    assert snapshot.coded("view:colours").to_pylist() == [part for text in texts for part in (text, "red")]
    assert snapshot.coded("view:title") is None
    assert snapshot.coded("view:price") is None
