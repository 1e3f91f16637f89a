"""The report: one page that needs nothing else, safe for any title, with a caption for every chart."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.assessment import Assessment, Exposure, RankerQuality, SliceQuality
from feast_recsys.evaluation.intervals import Interval
from feast_recsys.evaluation.item_map import layout, principal_components
from feast_recsys.evaluation.over_seeds import over_seeds, summarize
from feast_recsys.evaluation.predictions import reliability
from feast_recsys.evaluation.protocol import judge
from feast_recsys.evaluation.report import ItemMap, render
from feast_recsys.evaluation.report.page import headline
from feast_recsys.evaluation.report.svg import Scale

VOID = {"meta", "br", "link", "img"}
EVIL = '<script>alert("1")</script> & Söhne'


class Page(HTMLParser):
    """Checks that elements nest, and keeps what a reader would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, "/".join(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, "/".join(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.seen)


def interval(mean: float) -> Interval:
    return Interval(mean, mean - 0.01, mean + 0.01, 50)


@pytest.fixture
def found() -> Assessment:
    labels, p = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    names = {"rank": 0.3, "retrieve": 0.2, EVIL: 0.3, "rank_all": 0.31}
    metrics = ("ndcg@10", "recall@10", "map@10", "hit_rate@10", "recall@20")
    ranker = RankerQuality(judge(labels, p), 0.7, interval(0.5), interval(0.4), reliability(labels, p, 3))
    return Assessment(
        "films",
        50,
        1000,
        20,
        {n: {m: interval(v) for m in metrics} for n, v in names.items()},
        {n: interval(0.3 - v) for n, v in names.items() if n != "rank"},
        {n: tuple(np.linspace(0.01, v, 20)) for n, v in names.items()},
        {n: Exposure(0.4, 0.8, (0.0, 0.1, 1.0)) for n in names},
        ranker,
        (
            SliceQuality("users", "0 to 4 likes", 9, "ndcg@10", {n: interval(0.1) for n in ("rank", "retrieve")}),
            SliceQuality("items", "tail", 9, "recall@20", {"rank": Interval(np.nan, np.nan, np.nan, 0)}),
        ),
        5.0,
        2.5,
        1.2,
    )


@pytest.fixture
def items() -> ItemMap:
    positions = np.array([[0, 0], [1, 1], [2, 0]], np.float32)
    return ItemMap(positions, [EVIL, "Heat (1995)", "Ran"], ["drama", EVIL, ""], np.array([3, 2, 0]))


def test_a_report_is_well_formed_html_and_needs_nothing_else(found, items):
    text = render(found, items)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.count("script") == page.count("link") == page.count("img") == 0
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_every_chart_has_a_caption_and_a_description(found, items):
    text = render(found, items)
    charts = Page(text).count("svg")
    assert charts == 8
    assert len(re.findall(r"<figcaption>[^<]{40,}</figcaption>", text)) == charts
    assert len(re.findall(r'<svg [^>]*aria-label="[^"]+"', text)) == charts


def test_titles_and_names_are_escaped(found, items):
    text = render(replace(found, recommender=EVIL), items)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_without_a_ranker_and_a_map(found):
    text = render(replace(found, ranker=None))
    assert Page(text).count("svg") == 6
    assert "nan" not in text.lower()


def test_the_headline_says_better_only_where_the_interval_does(found):
    told = headline(found)
    assert "better than Retrieve's own order" in told
    assert f"not told apart from {EVIL}" in told
    assert "whole catalogue" not in told


def test_json_has_null_where_nothing_is_defined(found):
    document = found.to_dict()
    assert document["slices"][1]["values"]["rank"]["mean"] is None
    assert document["metrics"]["rank"]["ndcg@10"]["mean"] == 0.3


def test_ticks_are_round():
    assert Scale(0, 0.23, 0, 100).ticks() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert Scale(0, 0.23, 0, 100)(0.115) == pytest.approx(50)


def test_a_map_puts_groups_apart():
    random = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 20)
    vectors = (random.standard_normal((3, 16))[group] * 3 + random.standard_normal((60, 16)) * 0.3).astype(np.float32)
    places = layout(vectors, perplexity=8, steps=200)
    assert np.array_equal(places, layout(vectors, perplexity=8, steps=200))
    distances = np.linalg.norm(places[:, None] - places[None, :], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).all()


@pytest.mark.parametrize("n", [1, 4, 6])
def test_a_map_of_few_or_equal_items_is_finite(n):
    assert np.isfinite(layout(np.ones((n, 3), np.float32))).all()
    assert principal_components(np.ones((n, 1), np.float32), 2).shape == (n, 2)


def test_over_seeds_by_hand(found):
    # s.d. of 1, 2, 3 is 1; t(0.975, 2) = 4.3027.
    told = summarize([1.0, 2.0, 3.0])
    assert (told.mean, told.deviation, told.n) == (2, 1, 3)
    assert told.high - told.mean == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert over_seeds([found, found])["rank"]["ndcg@10"].deviation == 0
    with pytest.raises(InvalidArgument, match="compare like with like"):
        over_seeds([found, replace(found, users=3)])
