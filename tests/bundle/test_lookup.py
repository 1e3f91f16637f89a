"""The table leads from every id to its row, and from nothing else, whatever the ids hash to."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.ids import encode_words, pack_texts, texts_of
from feast_recsys.bundle.lookup import (
    MAX_BUCKET,
    MAX_SPREAD,
    UNKNOWN_ROW,
    DirectLookup,
    HashLookup,
    build_table,
    open_lookup,
)

LEAST, GREATEST = -(2**63), 2**63 - 1
NUMBERS = st.one_of(
    st.integers(LEAST, GREATEST),
    st.integers(-20, 20),
    st.integers(LEAST, LEAST + 9),
    st.integers(GREATEST - 9, GREATEST),
    # Few bits differ, all of them high.
    st.integers(-(2**10), 2**10 - 1).map(lambda n: n << 53),
)
TEXTS = st.text("abé\0", min_size=1, max_size=12).filter(lambda t: not t.endswith("\0"))


def write(path, ids):
    np.save(path, build_table(ids))
    return open_lookup(path, ids)


def keys_of(ids, wanted):
    return np.array(wanted, np.int64) if ids.dtype == np.int64 else encode_words(wanted, ids.dtype.itemsize // 8)


def check(path, ids, others):
    lookup = write(path, ids)
    known = ids.tolist() if ids.dtype == np.int64 else texts_of(ids)
    oracle = {key: row for row, key in enumerate(known)}
    wanted = [*known, *others, *known[::-1]]
    found = lookup.rows(keys_of(ids, wanted))
    assert found.dtype == np.int64
    assert found.tolist() == [oracle.get(key, UNKNOWN_ROW) for key in wanted]
    return lookup


def crowd(ids, size):
    """The `size` ids of many whose hashes begin alike, so that they share a bucket of a smaller table."""
    table = build_table(ids)
    return np.sort(ids[table[-len(ids) :][:size]])


def longest_bucket(ids):
    return int(np.diff(build_table(ids)[: -len(ids)]).max())


@settings(deadline=None, max_examples=200)
@given(st.lists(NUMBERS, unique=True, min_size=1, max_size=12), st.lists(NUMBERS, max_size=12))
def test_integers_have_their_rows(tmp_path_factory, ids, others):
    check(tmp_path_factory.mktemp("lookup") / "rows.npy", np.array(sorted(ids), np.int64), others)


@settings(deadline=None, max_examples=200)
@given(st.lists(TEXTS, unique=True, min_size=1, max_size=12), st.lists(st.text("abé\0", max_size=30), max_size=12))
def test_texts_have_their_rows(tmp_path_factory, ids, others):
    check(tmp_path_factory.mktemp("lookup") / "rows.npy", pack_texts(np.array(sorted(ids), object)), others)


@pytest.mark.parametrize(("last", "kind"), [(4 * MAX_SPREAD, DirectLookup), (4 * MAX_SPREAD + 1, HashLookup)])
def test_integers_that_lie_close_together_have_a_direct_table(tmp_path, last, kind):
    ids = np.array([1, 2, 5, last], np.int64)
    assert isinstance(check(tmp_path / "rows.npy", ids, [LEAST, 0, 3, last - 1, last + 1, GREATEST]), kind)


def test_a_direct_table_may_lie_at_either_end_of_int64(tmp_path):
    for ids in (np.arange(LEAST, LEAST + 5), np.arange(GREATEST - 4, GREATEST) + 1):
        others = [LEAST, LEAST + 5, -1, 0, 1, GREATEST - 5, GREATEST]
        assert isinstance(check(tmp_path / "rows.npy", ids.astype(np.int64), others), DirectLookup)


@pytest.mark.parametrize("size", [2, MAX_BUCKET, 5 * MAX_BUCKET])
@pytest.mark.parametrize("kind", ["integers", "texts"])
def test_ids_that_share_a_bucket_are_told_apart(tmp_path, kind, size):
    """Crowded buckets are left to another search, so both sides of the limit are tried."""
    many = np.sort(np.random.default_rng(0).integers(LEAST, GREATEST, 200_000))
    if kind == "texts":
        many = pack_texts(np.array(sorted(f"item {n}" for n in many.tolist()), object))
    ids = crowd(many, size)
    assert longest_bucket(ids) == size
    others = crowd(many, size + 20)
    others = others[~np.isin(others, ids)]
    check(tmp_path / "rows.npy", ids, others.tolist() if kind == "integers" else texts_of(others))


@pytest.mark.parametrize("step", [1, 1000, 2**20, 2**32, 2**43])
def test_regular_ids_are_spread_over_the_buckets(step):
    """A hash that looks at some bits only would put them into few."""
    ids = np.arange(100_000) * step
    if step > MAX_SPREAD:
        assert longest_bucket(ids) <= MAX_BUCKET
    texts = pack_texts(np.array(sorted(f"sku-{n}" for n in ids.tolist()), object))
    assert longest_bucket(texts) <= MAX_BUCKET


def test_many_ids_have_their_rows(tmp_path):
    rng = np.random.default_rng(0)
    for ids in (np.arange(0, 60_000, 3), np.unique(rng.integers(LEAST, GREATEST, 20_000))):
        absent = np.setdiff1d(rng.integers(ids[0], ids[-1], 5_000), ids)
        check(tmp_path / "rows.npy", ids, absent.tolist())


@pytest.mark.parametrize("ids", [np.empty(0, np.int64), np.empty(0, "S8")])
def test_no_ids_have_an_empty_table(tmp_path, ids):
    table = build_table(ids)
    assert (len(table), table.dtype) == (0, np.int32)
    write(tmp_path / "rows.npy", ids)


def test_equal_ids_have_equal_tables():
    ids = np.unique(np.random.default_rng(0).integers(LEAST, GREATEST, 1000))
    assert build_table(ids).tobytes() == build_table(ids.copy()).tobytes()


def test_more_items_than_a_table_can_number_are_refused():
    with pytest.raises(ValueError, match="2147483648 items are more than a snapshot can hold"):
        build_table(np.broadcast_to(np.int64(7), (2**31,)))


@pytest.mark.parametrize("ids", [np.arange(50), np.arange(50) * 1000], ids=["direct", "hashed"])
def test_the_table_is_mapped(tmp_path, ids):
    lookup = write(tmp_path / "rows.npy", ids)
    base = lookup.table if isinstance(lookup, DirectLookup) else lookup.order
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_broken_table_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "rows.npy").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"rows\.npy can't be read"):
        open_lookup(tmp_path / "rows.npy", np.arange(3))


@pytest.mark.parametrize(
    ("table", "ids"),
    [
        (build_table(np.arange(4)), np.arange(3)),
        (build_table(np.arange(3)).astype(np.int64), np.arange(3)),
        (build_table(np.arange(3)).reshape(1, 3), np.arange(3)),
        (build_table(np.arange(3)), np.arange(3) * 1000),
        (build_table(np.array([1, 2, 4])), np.array([1, 2, 3, 4])),
        (build_table(np.arange(3)), pack_texts(np.array(["a", "b", "c"], object))),
        (np.zeros(12, np.int32), np.arange(3) * 1000),
    ],
)
def test_a_table_of_other_ids_is_refused_by_name(tmp_path, table, ids):
    np.save(tmp_path / "rows.npy", table)
    with pytest.raises(CorruptArtifact, match=r"rows\.npy holds"):
        open_lookup(tmp_path / "rows.npy", ids)
