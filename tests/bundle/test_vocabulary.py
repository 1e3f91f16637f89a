"""A vocabulary numbers its keys from 1; row 0 is everything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.vocabulary import Vocabulary

KEYS = st.one_of(
    st.lists(st.text(max_size=4), unique=True, max_size=8), st.lists(st.integers(-9, 9), unique=True, max_size=8)
)


@settings(deadline=None, max_examples=100)
@given(KEYS)
def test_each_key_has_the_row_after_its_position(keys):
    vocabulary = Vocabulary(tuple(keys))
    assert len(vocabulary) == len(keys) + 1
    values = np.array(keys, dtype=vocabulary.dtype.numpy)
    assert vocabulary.encode(values).tolist() == list(range(1, len(keys) + 1))


@pytest.mark.parametrize(
    ("keys", "values", "rows"),
    [
        (("a", "b"), [["b", "?"], ["", "a"]], [[2, 0], [0, 1]]),
        ((7, 5), [[5, 7], [0, 6]], [[2, 1], [0, 0]]),
        ((), [["a"]], [[0]]),
    ],
)
def test_unknown_values_have_row_0_and_the_shape_stays(keys, values, rows):
    encoded = Vocabulary(keys).encode(np.array(values))
    assert encoded.tolist() == rows
    assert encoded.dtype == np.int64


def test_encode_takes_no_values():
    assert Vocabulary(("a",)).encode(np.empty((0, 3), object)).shape == (0, 3)


@settings(deadline=None, max_examples=50)
@given(KEYS)
def test_a_file_gives_back_keys_types_and_fingerprint(tmp_path_factory, keys):
    path = tmp_path_factory.mktemp("vocabulary") / "keys.json"
    saved = Vocabulary(tuple(keys))
    saved.save(path)
    loaded = Vocabulary.load(path)
    assert loaded == saved
    assert [type(k) for k in loaded.keys] == [type(k) for k in keys]
    assert loaded.fingerprint == saved.fingerprint


def test_the_fingerprint_depends_on_keys_order_and_type():
    prints = {Vocabulary(k).fingerprint for k in [("1", "2"), ("2", "1"), (1, 2), ("1",), ()]}
    assert len(prints) == 5


def test_fit_keeps_what_is_frequent_sorts_it_and_leaves_padding_out():
    assert Vocabulary.fit(["b", "a", "b", "", "", "a", "c"], min_count=2).keys == ("a", "b")
    assert Vocabulary.fit([3, 0, 0, -1, 3]).keys == (-1, 3)
    assert Vocabulary.fit([]).keys == ()


def test_the_type_of_the_keys_is_known():
    assert Vocabulary(("a",)).dtype is DType.STRING
    assert Vocabulary((1,)).dtype is DType.INT64


@pytest.mark.parametrize("keys", [("a", "a"), (1, "a"), (1.5,), (True, False), (None,)])
def test_keys_are_distinct_and_of_one_type(keys):
    with pytest.raises(InvalidSignature, match=r"remove the repetition|all strings or all integers"):
        Vocabulary(keys)


@pytest.mark.parametrize("content", ["{}", "[1, 'a'", '["a", "a"]', "[1.5]", "[[1]]", "\xff"])
def test_a_broken_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "genres.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptArtifact, match=r"genres\.json"):
        Vocabulary.load(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(CorruptArtifact, match=r"genres\.json"):
        Vocabulary.load(tmp_path / "genres.json")
