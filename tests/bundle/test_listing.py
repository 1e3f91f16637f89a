"""Listings and rows as files: they come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.listing import open_listing, open_rows, save_listing, save_rows

ROWS = np.array([4, 0, 2], np.int64)
SCORES = np.array([2.5, 1.0, 1.0], np.float32)


def test_what_was_saved_comes_back(tmp_path):
    save_listing(tmp_path / "a/listing", ROWS, SCORES)
    rows, scores = open_listing(tmp_path / "a/listing", 5)
    np.testing.assert_array_equal(rows, ROWS)
    np.testing.assert_array_equal(scores, SCORES)
    save_listing(tmp_path / "none", ROWS[:0], SCORES[:0])
    assert [len(part) for part in open_listing(tmp_path / "none", 0)] == [0, 0]
    save_rows(tmp_path / "b/rows.npy", np.sort(ROWS))
    np.testing.assert_array_equal(open_rows(tmp_path / "b/rows.npy", 5), [0, 2, 4])


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        (ROWS, SCORES[:2]),
        (ROWS, SCORES[::-1]),
        (ROWS, np.array([np.inf, 1, 0], np.float32)),
        (ROWS, SCORES.astype(np.float64)),
        (np.array([4, 4, 2], np.int64), SCORES),
        (np.array([5, 0, 2], np.int64), SCORES),
        (np.array([-1, 0, 2], np.int64), SCORES),
        (ROWS.astype(np.int32), SCORES),
        (ROWS[None], SCORES),
    ],
)
def test_anything_else_is_corrupt(tmp_path, rows, scores):
    save_listing(tmp_path / "listing", rows, scores)
    with pytest.raises(CorruptArtifact, match="listing"):
        open_listing(tmp_path / "listing", 5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorruptArtifact, match=r"rows\.npy can't be read"):
        open_rows(tmp_path / "rows.npy", 5)
