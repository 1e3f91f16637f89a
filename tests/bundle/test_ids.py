"""Ids are read from text by array operations exactly as Python would read them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.ids import WORD, encode_words, pack_texts, parse_integers, texts_of, words_of

LEAST, GREATEST = -(2**63), 2**63 - 1
NUMBERS = st.one_of(
    st.integers(LEAST, GREATEST),
    st.integers(-20, 20),
    st.sampled_from([sign * 10**power + step for power in range(19) for step in (-1, 0, 1) for sign in (-1, 1)]),
    st.sampled_from([LEAST, LEAST + 1, GREATEST - 1, GREATEST]),
)
# Made of what numbers are made of, and of what Python or C takes for it.
ODD = st.one_of(
    st.text("0179-+,_. \t\0\n\u0667²xe", max_size=6),
    st.text("0-+ \t\n\r\v\f\0\x1c\xa0x", max_size=1),
    st.integers(-(2**66), 2**66).map(str),
    st.text(max_size=4),
)
TEXTS = st.text("ab\0é\U0001f600", max_size=9)


def number(text):
    """The oracle: an int64 whose plain form is this text."""
    try:
        value = int(text)
    except ValueError:
        return None
    return value if str(value) == text and LEAST <= value <= GREATEST else None


def check(texts):
    values, plain = parse_integers(texts)
    expected = [number(text) for text in texts]
    assert values.dtype == np.int64
    assert values.tolist() == [value or 0 for value in expected]
    found = [True] * len(texts) if plain is None else plain.tolist()
    assert found == [value is not None for value in expected]


@settings(deadline=None, max_examples=300)
@given(st.lists(NUMBERS.map(str), min_size=1, max_size=20))
def test_plain_integers_are_read(texts):
    check(texts)


@settings(deadline=None, max_examples=500)
@given(st.lists(NUMBERS.map(str) | ODD, min_size=1, max_size=8))
# Together they read like other numbers.
@example(["7,8", ""])
@example(["", "7,8"])
@example(["", ""])
@example(["7", "8,"])
@example(["1", "-", "2"])
@example(["1", "+", "0"])
@example([" ", "1"])
@example(["7\0", "8"])
@example(["7", "8\0"])
# Long and short forms whose lengths would make up for each other, if a number could be shorter than its plain form.
@example(["007", "9999999999999999999"])
@example([str(GREATEST + 1)])
@example([str(LEAST - 1)])
@example([str(GREATEST), str(GREATEST + 1), str(LEAST), str(LEAST - 1), "-0"])
@example(["9" * 5000, "7"])
@example(["\ud800", "7"])
def test_other_texts_are_no_integers_and_spoil_none_beside_them(texts):
    check(texts)


def test_plain_integers_need_no_mask():
    """What says that they were read at once: only then is there no answer for each."""
    values, plain = parse_integers([str(n) for n in range(-500, 500)])
    assert plain is None
    assert values.tolist() == list(range(-500, 500))


@settings(deadline=None, max_examples=500)
@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(1, 3))
@example(["a\0b", "a", "b"], 1)
@example(["a\0", "a"], 1)
@example(["a" * 9, "a" * 8], 1)
@example(["", "", "a"], 2)
@example(["\ud800", "a"], 1)
def test_words_are_the_bytes_of_a_text_or_nothing(texts, width):
    words = encode_words(texts, width)
    assert (words.shape, words.dtype) == ((len(texts), width), np.uint64)
    for row, text in zip(words, texts, strict=True):
        key = text.encode("utf-8", "surrogatepass")
        if len(key) > WORD * width or key.endswith(b"\0"):
            key = b""
        assert row.tobytes() == key.ljust(WORD * width, b"\0")


@settings(deadline=None)
@given(st.lists(TEXTS.filter(lambda t: t and not t.endswith("\0")), max_size=8))
def test_stored_texts_have_the_words_of_the_same_texts_asked_for(texts):
    stored = pack_texts(np.array(texts, object))
    assert stored.dtype.itemsize % WORD == 0
    assert texts_of(stored) == texts
    if texts:
        words = words_of(stored)
        assert np.array_equal(encode_words(texts, words.shape[1]), words)
        assert np.shares_memory(words, stored)


@given(st.lists(NUMBERS, max_size=8))
def test_stored_integers_are_given_back_as_text(numbers):
    stored = np.array(numbers, np.int64)
    assert texts_of(stored) == [str(n) for n in numbers]
    assert words_of(stored).view(np.int64)[:, 0].tolist() == numbers


@pytest.mark.parametrize("text", ["", "a\0", "\0"])
def test_texts_that_a_fixed_width_would_change_are_refused(text):
    with pytest.raises(ValueError, match="is empty or ends in NUL"):
        pack_texts(np.array(["a", text], object))
