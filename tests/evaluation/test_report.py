"""The report: one page that needs nothing else, safe for any title, with a caption for every chart."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from support.assessments import assessment, interval

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.ablations import Ablation
from feast_recsys.evaluation.assessment import Assessment
from feast_recsys.evaluation.item_map import layout, principal_components
from feast_recsys.evaluation.over_seeds import over_seeds, summarize
from feast_recsys.evaluation.predictions import value_reliability
from feast_recsys.evaluation.ranker import judge_values, odds
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


@pytest.fixture
def found() -> Assessment:
    return assessment(EVIL)


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
    assert told.values == (1, 2, 3)
    alike = over_seeds({4: found, 7: found})
    assert alike.seeds == (4, 7)
    assert alike.metrics["rank"]["ndcg@10"].deviation == 0
    assert alike.gains["retrieve"].mean == pytest.approx(0.1)
    assert alike.ranker["auc"].values == (found.ranker.pooled.auc,) * 2
    with pytest.raises(InvalidArgument, match="compare like with like"):
        over_seeds({0: found, 1: replace(found, users=3)})


def test_one_seed_has_no_deviation_and_json_says_so(found):
    document = over_seeds({0: found}).to_dict()
    assert document["metrics"]["rank"]["ndcg@10"]["deviation"] is None
    json.dumps(document, allow_nan=False)


def test_further_trainings_have_a_chart_and_a_table(found, items):
    worse = {name: {m: interval(v.mean - 0.02) for m, v in own.items()} for name, own in found.metrics.items()}
    seeds = over_seeds({0: found, 1: replace(found, metrics=worse)})
    forms = {
        "wide & deep": Ablation(found.ranker.pooled, interval(0.3), None, 1234),
        "wide": Ablation(found.ranker.pooled, interval(0.2), interval(0.1), 17),
    }
    text = render(found, items, seeds, forms)
    page = Page(text)
    assert page.count("svg") == 9
    assert page.count("table") == 2
    assert "seed 1: 0.2800" in text
    assert "standard deviation of 0.0141" in text
    assert "1,234" in text
    assert "+0.1000" in text


def test_a_ranker_of_values_is_told_in_the_unit_of_the_label(found):
    labels, p, values = np.array([False, True, True]), np.array([0.2, 0.5, 0.9]), np.array([0.0, 2.0, 7.0])
    quality = judge_values(labels, p, values)
    # Odds of 1/4, 1 and 9.
    assert (quality.value, quality.expected) == (pytest.approx(3.0), pytest.approx(10.25 / 3))
    assert quality.calibration_error == pytest.approx((0.25 + 1 + 2) / 3)
    assert quality.log_loss == pytest.approx(-(np.log(0.8) + 2 * np.log(0.5) + 7 * np.log(0.9)) / 10)
    assert quality.constant_log_loss == pytest.approx(-(np.log(0.1) + 9 * np.log(0.9)) / 10)
    ranker = replace(
        found.ranker, pooled=quality, points=value_reliability(values, odds(p), 3), brought=interval(40.0),
        brought_retrieve=interval(30.0),
    )  # fmt: skip
    text = render(replace(found, ranker=ranker))
    assert "Can its values be trusted?" in text
    assert "expected 9.000, brought 7.000" in text
    assert "40.00 of the label together, 30.00" in text
    assert "700%" not in text


def test_odds_are_finite():
    assert np.isfinite(odds(np.array([0.0, 0.5, 1.0]))).all()
