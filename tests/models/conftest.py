from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.families import Families, build_families
from support.torch_settings import one_thread, operators_read_once


@pytest.fixture(scope="session", autouse=True)
def _operators_read_once() -> Iterator[None]:
    with operators_read_once():
        yield


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Families:
    """Shared by the tests of what is trained and of what is served: both want every family exported."""
    return build_families(tmp_path_factory.mktemp("families"))
