"""The name that was likely meant is told where there is exactly one; values are told at a readable length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.hints import did_you_mean, shown

KNOWN = ("catalogue:year", "catalogue:brand", "catalogue:rates", "catalogue:tag_1", "catalogue:tag_2", "shop:brand")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("year", "catalogue:year"),
        ("item_profile:year", "catalogue:year"),
        ("catalogue:Year", "catalogue:year"),
        ("catalogue:yaer", "catalogue:year"),
        ("catalgoue:year", "catalogue:year"),
        ("catalogue:brnad", "catalogue:brand"),
        ("catalgue:brand", "catalogue:brand"),
    ],
)
def test_the_one_name_that_is_likely_meant(name, meant):
    assert did_you_mean(name, KNOWN) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize(
    "name", ["brand", "tag", "catalogue:tag_3", "colour", "catalogue:colour", "", ":", "x" * 10**6]
)
def test_no_name_where_none_or_several_are_likely(name):
    assert did_you_mean(name, KNOWN) == ""


@given(st.text(), st.lists(st.text(), max_size=5))
def test_only_known_names_are_told(name, known):
    hint = did_you_mean(name, known)
    assert not hint or hint in {f"; did you mean {other!r}?" for other in known}


def test_a_long_value_is_cut():
    assert shown("short") == "'short'"
    assert shown("x" * 10**6) == "'" + "x" * 59 + " ..."
