"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from feast_recsys.bundle.runtime import load_model
from feast_recsys.cli.main import COMMANDS, cli
from feast_recsys.features.settings import parse_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    for found in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL):
        if containing in found:
            return str(found)
    raise AssertionError(f"the README has no {language} block with {containing!r}")


def test_the_settings_are_valid() -> None:
    section = yaml.safe_load(block("yaml", "recsys:"))["recsys"]
    settings = parse_settings(section, Path("README.md"))
    assert settings.recommender("shop").retrieval.model == "shop_retrieval"


def test_a_module_of_ones_own_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_models.py").write_text(block("python", "# shop_models.py"))
    (tmp_path / "ranking.yaml").write_text(block("yaml", "# ranking.yaml"))
    for name, keys in re.findall(r"(\w+\.json) (\[.*?\])", block("yaml", "# ranking.yaml")):
        (tmp_path / name).write_text(keys)
    monkeypatch.chdir(tmp_path)
    command = block("sh", "--module").split()[1:]
    (tmp_path / "feature_store.yaml").write_text(block("yaml", "recsys:"))
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    signature, _ = load_model(tmp_path / "data" / "models" / "shop_ranking")
    assert signature.name == "shop_ranking"


def test_the_client_is_valid_python_and_names_real_fields() -> None:
    from feast_recsys.v1.recommender_service_pb2 import RankRequest, RetrieveRequest

    source = block("python", "RecommenderServiceStub(channel)")
    compile(source, "README.md", "exec")
    for message, arguments in (
        (RetrieveRequest, r"RetrieveRequest\((.*?)\),"),
        (RankRequest, r"RankRequest\((.*?)\),"),
    ):
        called = re.search(arguments, source)
        assert called is not None
        names = set(re.findall(r"(\w+)=", called.group(1)))
        assert names
        assert names <= set(message.DESCRIPTOR.fields_by_name)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_generated_pages_are_up_to_date(tmp_path: Path) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), str(tmp_path)], check=True, capture_output=True)
    for page in ("cli.md", "configuration.md", "metrics.md", "models.md"):
        assert (tmp_path / page).read_text() == (ROOT / "docs" / page).read_text(), (
            f"run python docs/generate.py: {page}"
        )
