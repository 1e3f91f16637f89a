"""docs/quality.md shows what was measured."""

from __future__ import annotations

import pytest
from benchmarks.quality.__main__ import PAGE, STUDIES
from benchmarks.quality.report import fill, table
from benchmarks.quality.study import RESULTS, read


def test_every_table_is_that_of_the_results():
    documents = [read(path) for path in sorted(RESULTS.glob("*.json"))]
    assert {document["study"] for document in documents} == set(STUDIES)
    text = PAGE.read_text(encoding="utf-8")
    assert fill(text, documents) == text


def test_a_table_is_renewed_in_its_place_and_nowhere_else():
    document = {
        "study": "one",
        "metrics": ["recall"],
        "rows": {
            "a": {"0": {"metrics": {"recall": 0.5}, "minutes": 1.0}, "1": {"metrics": {"recall": 0.7}, "minutes": 3.0}}
        },
        "published": {"b": {"recall": 0.25}},
    }
    text = "before\n<!-- one -->\nold\n<!-- end -->\n<!-- two -->\nkept\n<!-- end -->\n"
    filled = fill(text, [document])
    assert filled == text.replace("old", table(document))
    assert "| a | 0.6000 ± 0.1414 | 2 | 2.0 |" in filled
    assert "| b (published) | 0.2500 |  |  |" in filled
    with pytest.raises(ValueError, match="no place"):
        fill("nothing", [document])
