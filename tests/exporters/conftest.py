"""Sources of every role, and what becomes of them."""

from __future__ import annotations

import pytest
from support.torch_modules import Exported, Source, export, ranking_source, retrieval_source


@pytest.fixture
def retrieval() -> Source:
    return retrieval_source()


@pytest.fixture
def ranking() -> Source:
    return ranking_source()


@pytest.fixture(scope="session")
def exported_retrieval(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(retrieval_source(), tmp_path_factory.mktemp("models") / "movies_retrieval")


@pytest.fixture(scope="session")
def exported_ranking(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(ranking_source(), tmp_path_factory.mktemp("models") / "movies_ranking")
