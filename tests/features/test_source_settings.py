"""The `sources:` section: what fits together, and what is refused with its path and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.filters import Comparison
from feast_recsys.features.settings import Recommender, parse_settings

FILTER = {"type": "gte", "key": "item:year", "value": 1990}


def parse(sources, *, fallback=None, likes=True, history="user:last") -> Recommender:
    recommender = {"retrieval": {"history": history}, "sources": sources, "fallback": fallback}
    section = {"catalogue": "items", "recommenders": {"films": recommender}}
    if likes:
        section["interactions"] = {"path": "likes.parquet"}
    return parse_settings(section, Path("feature_store.yaml")).recommender("films")


def test_every_kind_with_all_that_it_takes():
    films = parse(
        [
            {"name": "retrieval", "quota": 30},
            {"name": "new", "model": "content", "only": "cold", "cold_below": 3, "filter": FILTER, "quota": 10},
            {"name": "trending", "kind": "popular", "days": 7},
            {"name": "newest", "kind": "recent", "by": "item:released"},
            {"name": "alike", "kind": "similar", "model": "content", "history": "user:watched", "seeds": 3},
        ],
        fallback="trending",
    )
    own, new, trending, newest, alike = films.sources
    assert (own.kind, own.quota, own.model, own.counts_likes) == ("model", 30, None, False)
    assert new.condition == Comparison("gte", "item:year", 1990)
    assert new.counts_likes
    assert (trending.quota, trending.days, trending.counts_likes) == (None, 7.0, True)
    assert newest.condition is None
    assert (alike.last_items, newest.last_items) == (3, 5)
    assert films.fallback == "trending"


def test_without_sources_nothing_is_listed():
    assert parse([]).sources == ()
    assert parse([], likes=False).fallback is None


@pytest.mark.parametrize(
    ("sources", "path", "message"),
    [
        ([{"name": "a", "quota": 0}], "films.sources.0.quota", "greater than 0"),
        ([{"name": "a b"}], "films.sources.0.name", "match pattern"),
        ([{"name": "a"}, {"name": "a", "kind": "popular"}], "films.sources", "two sources are called a"),
        ([{"name": "a", "kind": "nearest"}], "films.sources.0.kind", "'similar'"),
        ([{"name": "a", "kind": "popular", "by": "item:year"}], "films.sources.0", "by says nothing"),
        ([{"name": "a", "days": 3}], "films.sources.0", "days says nothing for a source of kind model"),
        ([{"name": "a", "kind": "popular", "days": 0}], "films.sources.0.days", "greater than 0"),
        ([{"name": "a", "kind": "recent"}], "films.sources.0", "needs `by`"),
        ([{"name": "a", "kind": "recent", "by": "year"}], "films.sources.0.by", "match pattern"),
        ([{"name": "retrieval", "kind": "popular"}], "films.sources.0", "choose another name"),
        ([{"name": "similar"}], "films.sources.0", "choose another name"),
        ([{"name": "similar", "kind": "similar", "filter": FILTER}], "films.sources.0", "choose another name"),
        ([{"name": "similar", "kind": "similar", "model": "content"}], "films.sources.0", "choose another name"),
        ([{"name": "a", "cold_below": 3}], "films.sources.0", "cold_below says nothing without `only: cold`"),
        ([{"name": "a", "filter": {"type": "above"}}], "films.sources.0", "unknown type 'above'"),
        ([{"name": "a", "qouta": 1}], "films.sources.0.qouta", "not permitted"),
    ],
)
def test_what_does_not_fit_is_named(sources, path, message):
    with pytest.raises(InvalidSettings, match=r".") as refused:
        parse(sources)
    assert refused.value.field == f"recsys.recommenders.{path}"
    assert message in refused.value.message


def test_few_likes_are_five_unless_the_settings_say_so():
    assert parse([{"name": "a", "only": "cold"}]).sources[0].known_from == 5
    assert parse([{"name": "a", "only": "cold", "cold_below": 2}]).sources[0].known_from == 2
    [one] = parse([{"name": "a", "only": "cold"}]).sources
    [same] = parse([{"name": "a", "only": "cold", "cold_below": 5}]).sources
    assert one.shape() == same.shape()


def test_likeness_needs_a_history():
    with pytest.raises(InvalidSettings, match="source a needs to know what the user did last; set its `history`"):
        parse([{"name": "a", "kind": "similar"}], history=None)
    assert parse([{"name": "a", "kind": "similar", "history": "user:x"}], history=None).sources[0].history == "user:x"


@pytest.mark.parametrize("source", [{"kind": "popular"}, {"only": "cold"}])
def test_counting_likes_needs_interactions(source):
    with pytest.raises(InvalidSettings, match="source a of recommender films counts likes") as refused:
        parse([{"name": "a", **source}], likes=False)
    assert refused.value.field == "recsys.interactions"


@pytest.mark.parametrize("fallback", ["nobody", "a"])
def test_a_fallback_is_a_source_that_looks_at_no_user(fallback):
    with pytest.raises(InvalidSettings, match="there are: b") as refused:
        parse([{"name": "a"}, {"name": "b", "kind": "popular"}], fallback=fallback)
    assert refused.value.field == "recsys.recommenders.films.fallback"


def test_a_bundle_is_shaped_by_what_is_found_and_not_by_how_it_is_shared_out():
    [one] = parse([{"name": "a", "kind": "popular", "days": 7}]).sources
    [other] = parse([{"name": "b", "kind": "popular", "days": 7.0, "quota": 5}]).sources
    [third] = parse([{"name": "a", "kind": "popular"}]).sources
    assert one.shape() == other.shape() != third.shape()
