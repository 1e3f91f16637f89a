"""Filters mean what a plain-Python reading of them means, and what has no meaning is named by its path."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.filter_plan import evaluate
from feast_recsys.bundle.filters import Comparison, Compound, parse_filter
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot

# Small pools, so that operands meet values; the large integers are those that a float64 can't tell apart.
POOLS = {
    DType.INT64: [0, 1, 2, -3, 2**53, 2**53 + 1, -(2**63), 2**63 - 1],
    DType.FLOAT32: [0.0, -0.0, 0.5, -1.5, float(np.float32(3.4e38)), float(np.float32(0.1))],
    DType.BOOL: [True, False],
    DType.STRING: ["", "a", "b", "ab", "é", "Z"],
}
OPERANDS = {
    **POOLS,
    DType.INT64: [*POOLS[DType.INT64], 0.5, 1.0, -2.5, float(2**53), 2.0**63, 1e300, 2**70, float("inf"), -(2**70)],
    DType.FLOAT32: [*POOLS[DType.FLOAT32], 0, 1, 0.25, 1e39, -(10**400), float("-inf")],
}
FEATURES = {f"view:{d.value}{'s' if many else ''}": (d, many) for d in DType for many in (False, True)}
ORDER = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


@st.composite
def catalogues(draw):
    n = draw(st.integers(0, 6))
    table = {}
    for reference, (dtype, many) in FEATURES.items():
        value = st.sampled_from(POOLS[dtype])
        table[reference] = draw(
            st.lists(st.none() | (st.lists(value, max_size=3) if many else value), min_size=n, max_size=n)
        )
    return n, table


@st.composite
def comparisons(draw):
    reference = draw(st.sampled_from(list(FEATURES)))
    dtype, many = FEATURES[reference]
    kinds = ["eq", "ne", "in", "nin"]
    if not many and dtype is not DType.BOOL:
        kinds += list(ORDER)
    kind, operand = draw(st.sampled_from(kinds)), st.sampled_from(OPERANDS[dtype])
    value = draw(st.lists(operand, max_size=3)) if kind in ("in", "nin") else draw(operand)
    return {"type": kind, "key": reference, "value": value}


def compounds(children):
    several = st.lists(children, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda f: {"type": "and", "filters": f}, several),
        st.builds(lambda f: {"type": "or", "filters": f}, several),
        st.builds(lambda f: {"type": "not", "filters": [f]}, children),
    )


TREES = st.recursive(comparisons(), compounds, max_leaves=6)


def as_feature(operand, dtype):
    """Operands of a float32 feature are rounded as the feature was; beyond its range they are infinite."""
    if dtype is DType.FLOAT32:
        if abs(operand) > float(np.finfo(np.float32).max):
            return float("inf") if operand > 0 else float("-inf")
        return float(np.float32(operand))
    return operand


def passes(tree, row) -> bool:
    """The oracle, for one item: Python's own exact comparisons."""
    if tree["type"] == "and":
        return all(passes(f, row) for f in tree["filters"])
    if tree["type"] == "or":
        return any(passes(f, row) for f in tree["filters"])
    if tree["type"] == "not":
        return not passes(tree["filters"][0], row)
    dtype, many = FEATURES[tree["key"]]
    kind, value, have = tree["type"], tree["value"], row[tree["key"]]
    if kind in ORDER:
        return have is not None and ORDER[kind](have, as_feature(value, dtype))
    operands = [as_feature(o, dtype) for o in (value if kind in ("in", "nin") else [value])]
    elements = [] if have is None else have if many else [have]
    member = any(element == o for element in elements for o in operands)
    return member if kind in ("eq", "in") else not member


def snapshot_of(folder, n, table):
    columns = {
        reference: Column.of(FEATURES[reference][0], items, is_list=FEATURES[reference][1])
        for reference, items in table.items()
    }
    write_snapshot(folder, np.arange(n), columns)
    return open_snapshot(folder)


@settings(deadline=None, max_examples=300)
@given(catalogues(), TREES)
def test_a_filter_passes_what_plain_python_passes(tmp_path_factory, catalogue, tree):
    n, table = catalogue
    snapshot = snapshot_of(tmp_path_factory.mktemp("snapshot"), n, table)
    mask = evaluate(parse_filter(tree), snapshot)
    oracle = [passes(tree, {reference: items[row] for reference, items in table.items()}) for row in range(n)]
    assert mask.dtype == np.bool_
    assert mask.tolist() == oracle


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    table = {
        "view:int64": [1990, 2000, None],
        "view:float32": [0.1, 0.5, None],
        "view:bool": [True, False, None],
        "view:string": ["Alien", "Brazil", None],
        "view:int64s": [[1, 2], [], None],
        "view:float32s": [[0.1], [], None],
        "view:bools": [[True], [], None],
        "view:strings": [["Horror", "Drama"], ["Comedy"], None],
    }
    return snapshot_of(tmp_path_factory.mktemp("movies"), 3, table)


@pytest.mark.parametrize(
    ("kind", "key", "value", "mask"),
    [
        ("eq", "view:strings", "Drama", [True, False, False]),
        ("ne", "view:strings", "Drama", [False, True, True]),
        ("in", "view:strings", ["Comedy", "Drama"], [True, True, False]),
        ("nin", "view:strings", ["Comedy", "Drama"], [False, False, True]),
        ("gte", "view:int64", 2000, [False, True, False]),
        ("lt", "view:int64", 2000.0, [True, False, False]),
        ("lt", "view:string", "B", [True, False, False]),
        ("eq", "view:float32", 0.1, [True, False, False]),
        ("lte", "view:float32", 0.1, [True, False, False]),
        ("eq", "view:bool", False, [False, True, False]),
        ("ne", "view:bool", False, [True, False, True]),
        ("in", "view:int64", [], [False, False, False]),
        ("nin", "view:int64", [], [True, True, True]),
        ("gt", "view:int64", float("nan"), [False, False, False]),
    ],
)
def test_examples(movies, kind, key, value, mask):
    assert evaluate(Comparison(kind, key, value), movies).tolist() == mask


WRONG = [
    (
        Comparison("eq", "view:x", 1),
        "filter.comparison.key",
        "no item feature 'view:x'; there are: view:int64",
    ),
    (Comparison("eq", "int64", 1), "filter.comparison.key", r"; did you mean 'view:int64'\? there are: "),
    (Comparison("like", "view:string", "a"), "filter.comparison.type", "unknown type 'like'"),
    (
        Comparison("eq", "view:int64", "1990"),
        "filter.comparison.value",
        r"view:int64 is int64, but the operand is '1990' \(string_value\); give a whole number \(int64_value\)",
    ),
    (Comparison("eq", "view:int64", "9" * 1000), "filter.comparison.value", r"'9{59} \.\.\. \(string_value\); give"),
    (Comparison("eq", "view:int64", True), "filter.comparison.value", r"the operand is True \(bool_value\); give"),
    (Comparison("eq", "view:float32", "x"), "filter.comparison.value", r"give a number \(double_value\)"),
    (Comparison("eq", "view:bool", 1), "filter.comparison.value", r"give true or false \(bool_value\)"),
    (Comparison("eq", "view:string", 1), "filter.comparison.value", "view:string is string"),
    (Comparison("eq", "view:string", None), "filter.comparison.value", "the operand is unset, and null is no operand"),
    (
        Comparison("in", "view:string", ("a", 1)),
        "filter.comparison.value.int64_list.values[1]",
        r"the operand is 1 \(int64_list\); give a text \(string_list\)",
    ),
    (Comparison("in", "view:string", ("a", None)), "filter.comparison.value[1]", "the operand is unset"),
    (Comparison("in", "view:string", ("a", {})), "filter.comparison.value[1]", "the operand is {}; give"),
    (Comparison("in", "view:string", "a"), "filter.comparison.value", r"takes a list \(string_list\); it is 'a'"),
    (Comparison("in", "view:string", None), "filter.comparison.value", "takes a list .*; it is unset"),
    (Comparison("eq", "view:string", ("a",)), "filter.comparison.value", r"a single value \(string_value\)"),
    (Comparison("gt", "view:int64", (1,)), "filter.comparison.value", "takes a single value"),
    (Comparison("gt", "view:bool", True), "filter.comparison.type", "is a truth value"),
    (Comparison("gt", "view:int64s", 1), "filter.comparison.type", "is a list"),
    (Compound("and", ()), "filter.compound.filters", "at least one filter"),
    (Compound("or", ()), "filter.compound.filters", "at least one filter"),
    (Compound("not", ()), "filter.compound.filters", "exactly one filter"),
    (Compound("not", (Comparison("eq", "view:bool", True),) * 2), "filter.compound.filters", "exactly one filter"),
    (Compound("xor", (Comparison("eq", "view:bool", True),)), "filter.compound.type", "unknown type 'xor'"),
]


@pytest.mark.parametrize(("condition", "field", "message"), WRONG)
def test_what_has_no_meaning_is_named_by_its_path(movies, condition, field, message):
    with pytest.raises(InvalidArgument, match=message) as caught:
        evaluate(condition, movies)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: ")


def test_a_path_leads_through_the_tree(movies):
    good, bad = Comparison("eq", "view:bool", True), Comparison("eq", "view:bool", "yes")
    tree = Compound("or", (good, Compound("not", (bad,))))
    with pytest.raises(InvalidArgument) as caught:
        evaluate(tree, movies)
    assert caught.value.field == "filter.compound.filters[1].compound.filters[0].comparison.value"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ("a", "filter"),
        ({}, "filter"),
        ({"type": "like", "key": "a", "value": 1}, "filter.type"),
        ({"type": ["eq"], "key": "a", "value": 1}, "filter.type"),
        ({"type": "eq", "key": "a"}, "filter"),
        ({"type": "and", "filters": {}}, "filter.filters"),
        ({"type": "or"}, "filter.filters"),
        ({"type": "and", "filters": [{"type": "not", "filters": [7]}]}, "filter.filters[0].filters[0]"),
    ],
)
def test_json_of_another_shape_is_named_by_its_path(document, field):
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(document)
    assert caught.value.field == field
    assert caught.value.message.startswith(field)


def test_depth_is_limited(movies):
    def nested(depth):
        tree = {"type": "eq", "key": "view:bool", "value": True}
        for _ in range(depth):
            tree = {"type": "not", "filters": [tree]}
        return tree

    assert evaluate(parse_filter(nested(32)), movies).tolist() == [True, False, False]
    with pytest.raises(InvalidArgument, match="nested more than 32 deep") as caught:
        parse_filter(nested(33))
    assert caught.value.field == "filter" + 33 * ".filters[0]"
    assert caught.value.message.endswith(caught.value.field)
    tree = Comparison("eq", "view:bool", True)
    for _ in range(33):
        tree = Compound("not", (tree,))
    with pytest.raises(InvalidArgument, match="nested more than 32 deep"):
        evaluate(tree, movies)


def some_of(key):
    """How to ask for a value that is not null, as docs/edge-cases.md says."""
    if key == "view:bool":
        return {"type": "in", "key": key, "value": [True, False]}
    if key == "view:string":
        return {"type": "gte", "key": key, "value": ""}
    return {"type": "or", "filters": [{"type": kind, "key": key, "value": 0} for kind in ("gte", "lt")]}


@settings(deadline=None, max_examples=25)
@given(catalogues())
def test_null_is_asked_for_by_what_every_value_passes(tmp_path_factory, catalogue):
    n, table = catalogue
    snapshot = snapshot_of(tmp_path_factory.mktemp("snapshot"), n, table)
    for key, (_, many) in FEATURES.items():
        if not many:
            present = [value is not None for value in table[key]]
            assert evaluate(parse_filter(some_of(key)), snapshot).tolist() == present
            absent = {"type": "not", "filters": [some_of(key)]}
            assert evaluate(parse_filter(absent), snapshot).tolist() == [not one for one in present]


@settings(deadline=None, max_examples=25)
@given(catalogues(), TREES)
def test_null_and_an_empty_list_pass_the_same_filters(tmp_path_factory, catalogue, tree):
    n, table = catalogue
    emptied = {
        reference: [[] if FEATURES[reference][1] and value is None else value for value in items]
        for reference, items in table.items()
    }
    with_null, without = (
        evaluate(parse_filter(tree), snapshot_of(tmp_path_factory.mktemp("snapshot"), n, columns))
        for columns in (table, emptied)
    )
    assert with_null.tolist() == without.tolist()


@settings(deadline=None, max_examples=60)
@given(catalogues(), TREES)
def test_texts_that_repeat_are_filtered_alike(tmp_path_factory, catalogue, tree):
    n, table = catalogue
    folder = tmp_path_factory.mktemp("snapshot")
    snapshot = snapshot_of(folder, 64 * n, {reference: 64 * items for reference, items in table.items()})
    rows = [{reference: items[row] for reference, items in table.items()} for row in range(n)]
    assert evaluate(parse_filter(tree, "filter"), snapshot).tolist() == 64 * [passes(tree, row) for row in rows]
    assert not n or snapshot.coded("view:string") is not None


@pytest.mark.parametrize("least", ["", "value 05", "value 11", "z"])
def test_many_texts_and_rare_ones_among_lists_are_found(tmp_path, least):
    texts = [f"value {n:02}" for n in range(20)] * 40
    lists = [[] if n % 7 == 0 else [text, "rare"] if n % 399 == 5 else ["", text] for n, text in enumerate(texts)]
    snapshot = snapshot_of(tmp_path, len(texts), {"view:string": texts, "view:strings": lists})
    assert snapshot.coded("view:string") is not None
    assert snapshot.coded("view:strings") is not None

    def mask(kind, key, value):
        return evaluate(Comparison(kind, key, value), snapshot).tolist()

    assert mask("gte", "view:string", least) == [text >= least for text in texts]
    some = texts[3:15]
    assert mask("in", "view:string", some) == [text in some for text in texts]
    assert mask("eq", "view:strings", "rare") == ["rare" in values for values in lists]
    assert mask("in", "view:strings", some) == [bool({*some} & {*values}) for values in lists]
