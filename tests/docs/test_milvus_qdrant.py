"""What docs/milvus-qdrant.md shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from feast_recsys.features.index_settings import EngineIndex
from feast_recsys.features.settings import parse_settings

PAGE = (Path(__file__).parents[2] / "docs" / "milvus-qdrant.md").read_text(encoding="utf-8")


def test_the_settings_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    shown = [yaml.safe_load(blocks[0])["recsys"]["recommenders"]["shop"]["retrieval"]["index"]]
    shown += [yaml.safe_load(line)["index"] for line in blocks[1].splitlines()]
    for index in shown:
        settings = parse_settings(
            {"catalogue": "items", "recommenders": {"shop": {"retrieval": {"index": index}}}}, Path("page")
        )
        assert isinstance(settings.recommenders["shop"].retrieval.index, EngineIndex)


def test_the_defaults_are_those_of_the_table() -> None:
    spec = EngineIndex(kind="milvus").spec()
    assert (spec.build["m"], spec.build["building"], spec.search["breadth"]) == (16, 200, 200)
    assert "| `m`, `building` | 16, 200 |" in PAGE
    assert "| `breadth` | 200 |" in PAGE
