"""docs/metrics.md lists what a server counts, with every label and every value that the code gives it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from feast_recsys.bundle.columns import FieldStatus
from feast_recsys.server import families
from feast_recsys.server.exposition import Page
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.tally import Family

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

import generate  # noqa: E402 -- docs/ is no package

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
ALL = [value for value in vars(families).values() if isinstance(value, Family)]


def source(*names: str) -> str:
    return "\n".join((ROOT / "server/feast_recsys/server" / f"{name}.py").read_text("utf-8") for name in names)


def values(label: str) -> set[str]:
    return {name for key in generate.LABELS[label] for name in re.findall(r"`(\w+)`", key)}


def test_the_page_is_up_to_date() -> None:
    assert generate.metrics_page() == PAGE, "run python docs/generate.py"


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_every_family_has_a_row_under_the_name_that_prometheus_sees(family: Family) -> None:
    exposed = f"{family.name}_total" if family.kind == "counter" else family.name
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{exposed}` ")]
    assert family.kind in row and family.text in row
    assert re.findall(r"`(\w+)`", row.split("|")[4]) == list(family.labels)


def test_every_label_is_explained_and_no_other() -> None:
    assert set(generate.LABELS) == {label for family in ALL for label in family.labels}


def test_every_value_that_the_code_gives_is_explained_and_no_other() -> None:
    calls = source("call", "engine", "retrieval", "arranging")
    assert values("stage") == set(re.findall(r'stages\.done\("(\w+)"\)', calls))
    assert values("kind") == set(re.findall(r'store_failed\("(\w+)"\)', source("reads")))
    assert values("status") == {status.name for status in FieldStatus} - {"PRESENT"}
    assert values("rpc") == set(re.findall(r"def ([A-Z]\w+)\(", source("servicer")))


def test_the_page_names_what_a_server_exposes() -> None:
    metrics = Metrics().open()
    metrics.request("Rank", "shop", "OK", 0.001)
    metrics.bundle_loaded("b", 1)
    exposed = {sample.name for metric in Page(metrics._tally.entries).collect() for sample in metric.samples}
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed} <= named
