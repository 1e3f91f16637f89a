"""The `index:` section: measured unless it names a kind, and refused by the path that the file has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.index_settings import EngineIndex, FixedIndex, MeasuredIndex
from feast_recsys.features.settings import Settings, parse_settings

FILE = Path("feature_store.yaml")


def parsed(index: Any) -> Settings:
    recommender = {"retrieval": {"index": index}}
    return parse_settings({"catalogue": "items", "recommenders": {"things": recommender}}, FILE)


def index_of(settings: Settings) -> MeasuredIndex | FixedIndex:
    return settings.recommenders["things"].retrieval.index


def test_nothing_said_is_a_measured_index_for_a_recall_of_99_percent() -> None:
    said_nothing = parse_settings({"catalogue": "items", "recommenders": {"things": {}}}, FILE)
    assert index_of(said_nothing) == index_of(parsed({})) == index_of(parsed({"recall": 0.99})) == MeasuredIndex()
    assert MeasuredIndex().recall == 0.99


def test_a_kind_makes_it_a_fixed_one_with_the_parameters_of_that_kind() -> None:
    fixed = index_of(parsed({"kind": "ivf_flat", "lists": 1024, "probes": 32}))
    assert isinstance(fixed, FixedIndex)
    spec = fixed.spec()
    assert (spec.kind, spec.build["lists"], spec.search["probes"]) == ("ivf_flat", 1024, 32)
    assert (fixed.recall, fixed.k) == (0.99, 100)


@pytest.mark.parametrize(
    ("index", "setting", "says"),
    [
        ({"recal": 0.9}, "recal", "extra"),
        ({"recall": 1.5}, "recall", "less than or equal to 1"),
        ({"recall": 0}, "recall", "greater than 0"),
        ({"sample": 10}, "sample", "greater than or equal to 100"),
        ({"kinds": ["annoy"]}, "", "annoy.*ivf_flat"),
        ({"kinds": ["exact", "qdrant"]}, "", "qdrant is not measured.*{kind: qdrant}"),
        ({"kind": "annoy"}, "", "annoy.*ivf_flat"),
        ({"kind": "ivf_flat", "probe": 8}, "", "probe.*probes"),
        ({"kind": "ivf_flat", "lists": "many"}, "", "lists"),
        ({"kind": "ivf_flat", "probes": 0}, "", "probes"),
        ({"kind": "ivf_flat", "recall": 2}, "recall", "less than or equal to 1"),
        ({"kind": "ivf_flat", "address": "http://ann:1"}, "", "address.*probes"),
        ({"kind": "milvus", "probes": 8}, "", "milvus.*no parameter 'probes'"),
        ({"kind": "milvus", "timeout_seconds": 0}, "timeout_seconds", "greater than 0"),
        ({"kind": "qdrant", "timeout": 1}, "", "no parameter 'timeout'"),
        ({"kind": "qdrant", "address": "qdrant:6333"}, "address", "no address of a server.*http://HOST:PORT"),
        ({"kind": "qdrant", "address": "http://:6333"}, "address", "no address of a server"),
        ({"kind": "qdrant", "address": "http://[::1"}, "address", "no address"),
        ({"kind": "qdrant", "address": "http://qdrant:port"}, "address", "no address"),
        ({"kind": "qdrant", "address": "http://qdrant:6333/shop?a=1"}, "address", "nothing may follow its port"),
        ({"kind": "milvus", "address": "/var/milvus.db"}, "address", "no address of a server"),
        ("fast", "", "dictionary|mapping|object"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(index: Any, setting: str, says: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        parsed(index)
    path = "recsys.recommenders.things.retrieval.index"
    assert raised.value.field == (f"{path}.{setting}" if setting else path)
    assert re.search(says, raised.value.message)


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_an_engine_is_embedded_or_at_an_address_and_both_say_it_in_the_same_words(kind: str) -> None:
    embedded = index_of(parsed({"kind": kind}))
    assert isinstance(embedded, EngineIndex)
    assert (embedded.address, embedded.timeout_seconds, embedded.recall) == (None, 1.0, 0.99)
    there = index_of(parsed({"kind": kind, "address": f"http://{kind}:1234/", "timeout_seconds": 0.5}))
    assert isinstance(there, EngineIndex)
    assert (there.address, there.timeout_seconds) == (f"http://{kind}:1234", 0.5)
    assert there.spec() == embedded.spec()


def test_a_secret_in_an_address_is_refused_without_being_told() -> None:
    with pytest.raises(InvalidSettings, match=r"MILVUS_TOKEN or QDRANT_API_KEY of the environment") as raised:
        parsed({"kind": "qdrant", "address": "https://user:hush@qdrant:6333"})
    assert "hush" not in raised.value.message


def test_settings_survive_json() -> None:
    """The fingerprint of a bundle is made of it."""
    engine = {"kind": "qdrant", "address": "http://qdrant:6333", "timeout_seconds": 0.5}
    for index in ({"recall": 0.95, "kinds": ["hnsw"]}, {"kind": "ivf_flat", "lists": 64}, engine):
        settings = index_of(parsed(index))
        assert index_of(parsed(settings.model_dump(mode="json", exclude_unset=True))) == settings
        assert set(index) <= set(settings.model_dump(mode="json"))
