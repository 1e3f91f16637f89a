"""What docs/models.md shows of the families can be copied: settings that are read, options that the commands have."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from feast_recsys.cli.main import cli
from feast_recsys.features.settings import Settings, parse_settings
from feast_recsys.models.content.families import AUDIO, CONTENT
from feast_recsys.models.training.configure import configure

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
EXAMPLES = {"content": ("by_descriptors", CONTENT), "audio": ("by_sound", AUDIO)}


def section(family: str) -> str:
    return next(part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if part.startswith(f"{family}\n"))


def block(family: str, language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", section(family), re.DOTALL)
    return str(found)


def keys_of(document: Mapping[str, Any]) -> set[str]:
    """Names at every depth, but that of the recommender."""
    found = set()
    for key, value in document.items():
        found |= {key} | (keys_of(value) if isinstance(value, dict) else set())
    return found - {name for name, _ in EXAMPLES.values()}


def settings_of(family: str) -> Settings:
    return parse_settings(yaml.safe_load(block(family, "yaml"))["recsys"], Path("docs/models.md"))


def test_every_block_of_settings_is_valid() -> None:
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        document = yaml.safe_load(text)
        whole = document.get("recsys", {"catalogue": "product", "recommenders": {"shop": document}})
        assert parse_settings(whole, Path("docs/models.md")).recommenders


@pytest.mark.parametrize("family", EXAMPLES)
def test_the_hyperparameters_of_the_example_are_those_of_its_family(family: str) -> None:
    name, configurations = EXAMPLES[family]
    retrieval = settings_of(family).recommender(name).retrieval
    assert retrieval.family == family
    left = dict(retrieval.hyperparameters)
    for configuration in configurations:
        known = {key: left.pop(key) for key in [*left] if key in configuration.__dataclass_fields__}
        configure(configuration, known, "hyperparameters")
    assert not left


@pytest.mark.parametrize("family", EXAMPLES)
def test_each_key_of_the_example_is_explained(family: str) -> None:
    text = section("content") + section(family)
    shown = keys_of(yaml.safe_load(block(family, "yaml"))["recsys"]) - {"recommenders", "retrieval"}
    explained = set(re.findall(r"`(\w+)`", "".join(line for line in text.split("```")[::2])))
    assert shown <= explained


@pytest.mark.parametrize("family", EXAMPLES)
def test_the_commands_and_their_options_exist(family: str) -> None:
    name, _ = EXAMPLES[family]
    lines = [shlex.split(line.removesuffix(" &")) for line in block(family, "sh").splitlines()]
    assert [line[1] for line in lines] == ["train", "export", "materialize", "serve", "retrieve"]
    for program, command, *arguments in lines:
        assert program == "feast-recsys"
        found = cli.get_command(click.Context(cli), command)
        assert found is not None
        parsed = found.make_context(command, arguments)
        assert parsed.params.get("recommender", name) == name
