"""What a recommender gives where a request says nothing: held against its stages and the server's limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.settings import Recommender, Settings, parse_settings


def parse(recommender: dict[str, Any], **serving: int) -> Recommender:
    section = {"catalogue": "items", "recommenders": {"films": recommender}, "serving": serving}
    return parse_settings(section, Path("feature_store.yaml")).recommender("films")


def refusal(recommender: dict[str, Any], **serving: int) -> tuple[str | None, str]:
    with pytest.raises(InvalidSettings) as refused:
        parse(recommender, **serving)
    return refused.value.field, refused.value.message


@pytest.mark.parametrize(
    ("recommender", "top_k", "candidates"),
    [({}, 10, 50), ({"top_k": 50}, 50, 50), ({"candidates": 10}, 10, 10), ({"top_k": 3, "candidates": 3}, 3, 3)],
)
def test_recommend_returns_no_more_than_its_candidates(recommender, top_k, candidates):
    films = parse(recommender)
    assert (films.top_k, films.candidates) == (top_k, candidates)


@pytest.mark.parametrize("recommender", [{"top_k": 51}, {"candidates": 9}, {"top_k": 100, "candidates": 99}])
def test_more_than_the_candidates_is_refused(recommender):
    field, message = refusal(recommender)
    assert field == "recsys.recommenders.films.candidates"
    assert "raise `candidates`, or lower `top_k`" in message


def test_without_a_ranking_nothing_is_recommended_so_its_number_does_not_count():
    assert parse({"ranking": None, "candidates": 7}).candidates == 7
    assert parse({"ranking": None, "top_k": 100}).top_k == 100


@pytest.mark.parametrize(
    ("recommender", "serving", "setting", "limit"),
    [
        ({"candidates": 1001}, {}, "candidates of recommender films is 1001", "1000 of `serving.max_top_k`"),
        ({"candidates": 40}, {"max_candidates": 30}, "is 40", "30 of `serving.max_candidates`"),
        ({"reranking": {"pinned_item_ids": list(range(1001))}}, {}, "pinned_item_ids", "1000 of `serving.max_top_k`"),
        (
            {"candidates": 10, "reranking": {"pinned_item_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}},
            {"max_top_k": 10}, "pinned_item_ids", "10 of `serving.max_top_k`",
        ),
        (
            {"reranking": {"blocked_item_ids": [1, 2, 3]}},
            {"max_exclusions": 2}, "blocked_item_ids of recommender films is 3", "2 of `serving.max_exclusions`",
        ),
    ],
)  # fmt: skip
def test_what_no_request_may_ask_for_is_no_default(recommender, serving, setting, limit):
    field, message = refusal(recommender, **serving)
    assert field == "recsys.recommenders"
    assert setting in message
    assert limit in message


def test_limits_may_be_raised():
    many = {"candidates": 1500, "reranking": {"pinned_item_ids": list(range(1500)), "blocked_item_ids": [-1, -2, -3]}}
    assert parse(many, max_top_k=1500, max_exclusions=3).candidates == 1500


@pytest.mark.parametrize(
    "rules", [{"blocked_item_ids": [13]}, {"relevance_weight": 0.5}, {"caps": [{"key": "item:genre", "max_items": 1}]}]
)
def test_what_is_not_ranked_is_not_arranged(rules):
    field, message = refusal({"ranking": None, "reranking": rules})
    assert field == "recsys.recommenders.films.reranking"
    assert "remove `reranking`, or set `ranking`" in message
    assert parse({"reranking": rules}).reranking != parse({}).reranking
    assert parse({"ranking": None, "reranking": {}}).ranking is None


@pytest.mark.parametrize(
    ("rules", "path", "message"),
    [
        ({"pinned_item_ids": ["7", 13], "blocked_item_ids": [13]}, "blocked_item_ids", "item 13 is in pinned_item_ids"),
        ({"caps": [{"key": "item:genre", "max_items": 1}] * 33}, "caps", "at most 32"),
        ({"caps": [{"key": "item:genre", "max_items": 0}]}, "caps.0.max_items", "greater than 0"),
        ({"caps": [{"key": "genre", "max_items": 1}]}, "caps.0.key", "match pattern"),
        ({"relevance_weight": 1.5}, "relevance_weight", "less than or equal to 1"),
    ],
)
def test_rules_that_cannot_hold_are_named(rules, path, message):
    field, text = refusal({"reranking": rules})
    assert field == f"recsys.recommenders.films.reranking.{path}"
    assert message in text


def test_settings_that_were_written_out_are_read_again():
    recommender = {"candidates": 20, "sources": [{"name": "retrieval", "quota": 1}]}
    section = {"catalogue": "items", "recommenders": {"films": recommender}}
    settings = parse_settings(section, Path("feature_store.yaml"))
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
