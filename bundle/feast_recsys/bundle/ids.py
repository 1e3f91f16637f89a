"""Item ids between text, as they travel, and arrays, as they are searched.

Hundreds of ids are read at once, by few array operations; ids are looked at one by one only where one of them is odd.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

WORD = 8
"""Bytes that are hashed and compared at a time; text ids are stored in a whole number of words."""

_INT64 = np.iinfo(np.int64)
_PLAIN = re.compile("0|-?[1-9][0-9]*")
_POWERS = 10 ** np.arange(1, 19, dtype=np.int64)
_LITTLE = np.dtype("<u8")
# The first 0, 1, ... 8 bytes of a word.
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(WORD + 1)], _LITTLE)


def parse_integers(texts: Sequence[str]) -> tuple[Integers, Mask | None]:
    """Numbers of integer ids. Only the plain form counts: "7", not "007", "+7" or " 7".

    Args:
        texts: m texts, at least one.

    Returns:
        [m] int64, 0 where the text is no int64 in its plain form; and [m] which are one, None if all are.
    """
    values, plain = _numbers(texts), None
    if values is None:
        # Most texts are plain even then, and told by their own methods.
        plain = np.array([(t.isdigit() and t.isascii() and t[0] != "0") or bool(_PLAIN.fullmatch(t)) for t in texts])
        readable = [text if ok else "0" for text, ok in zip(texts, plain.tolist(), strict=True)]
        values = np.fromstring(",".join(readable), np.int64, sep=",")
        # The extremes also stand for whatever lies beyond them.
        for at in np.flatnonzero((values == _INT64.max) | (values == _INT64.min)).tolist():
            plain[at] = str(values[at]) == texts[at]
        values[~plain] = 0
    return values, plain


def encode_words(texts: Sequence[str], width: int) -> Words:
    """Text ids as the words of their UTF-8 bytes, filled up with NUL.

    Args:
        texts: m texts, at least one.
        width: Words for each, at least 1.

    Returns:
        [m, width] uint64; all 0 for a text that no stored id can equal: one that is empty, too long or ends in NUL.
    """
    size = WORD * width
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    gaps = (np.frombuffer(joined, np.uint8) == 0).nonzero()[0]
    if len(gaps) != len(texts) - 1:
        return _encode_one_by_one(texts, width)
    bounds = np.empty(len(texts) + 1, np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = -1, gaps, len(joined)
    starts = bounds[:-1] + 1
    lengths = bounds[1:] - starts
    if lengths.max() > size:
        return _encode_one_by_one(texts, width)
    # Every position of the joined text as the start of a window of `size` bytes.
    windows: Array = np.ndarray((len(joined) + 1,), np.dtype((np.void, size)), joined + bytes(size), 0, (1,))
    words = windows[starts].view(_LITTLE).reshape(-1, width)
    words &= _FIRST_BYTES.take(lengths[:, None] - np.arange(0, size, WORD), mode="clip")
    return words


def words_of(ids: Array) -> Words:
    """Stored ids as words, without a copy.

    Args:
        ids: [n] int64, or bytes whose width is a multiple of WORD.

    Returns:
        [n, width] uint64.
    """
    return ids.view(_LITTLE).reshape(len(ids), ids.dtype.itemsize // WORD)


def texts_of(ids: Array) -> list[str]:
    """Stored ids, int64 or bytes, as text."""
    items = ids.tolist()
    if ids.dtype == np.int64:
        return [str(item) for item in items]
    texts: list[str] = b"\0".join(items).decode().split("\0") if items else []
    # An id with a NUL inside falls into two.
    return texts if len(texts) == len(items) else [item.decode() for item in items]


def pack_texts(ids: Array) -> Array:
    """Text ids as they are stored: UTF-8 bytes of one width, a multiple of WORD.

    Raises:
        ValueError: an id is empty or ends in NUL.
    """
    encoded = [str(i).encode() for i in ids]
    for key in encoded:
        if not key or key.endswith(b"\0"):
            raise ValueError(f"item id {key.decode()!r} is empty or ends in NUL; a file of fixed width would lose that")
    longest = max(map(len, encoded), default=1)
    return np.array(encoded, f"S{-(-longest // WORD) * WORD}")


def _numbers(texts: Sequence[str]) -> Integers | None:
    """The numbers, None if one may not be in its plain form or beyond int64."""
    joined = ",".join(texts)
    try:
        values = np.fromstring(joined, np.int64, sep=",")
    except (ValueError, DeprecationWarning):  # what does not look like numbers; older NumPy warns of it
        return None
    if len(values) != len(texts):
        return None
    negative = int(np.count_nonzero(values < 0)) if "-" in joined else 0
    more = _POWERS.searchsorted(np.abs(values) if negative else values, "right")
    # No number is shorter than its plain form, so equal lengths in sum mean that all are as long as that, and that no
    # text was split. Of a number's own length is only its plain form; but a lone sign or blank is read as 0.
    if int(more.sum()) + 2 * len(values) - 1 + negative != len(joined):
        return None
    if not values.all() and any(texts[at] != "0" for at in np.flatnonzero(values == 0).tolist()):
        return None
    # What lies beyond int64 is read as its extreme.
    return None if more.max() == len(_POWERS) and values.max() == _INT64.max else values


def _encode_one_by_one(texts: Sequence[str], width: int) -> Words:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    # Bytes of fixed width would cut a longer id, and drop a trailing NUL, and so become another item's.
    fitting = [e if len(e) <= WORD * width and not e.endswith(b"\0") else b"" for e in encoded]
    return words_of(np.array(fitting, f"S{WORD * width}"))
