"""What is typed becomes the message that says the same, or is refused by the option's name."""

from __future__ import annotations

import json

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.cli.wire import wire_context, wire_filter, wire_value
from feast_recsys.server.codec import retrieve_query
from feast_recsys.v1 import recommender_service_pb2 as pb

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = (st.booleans(), INT64, FLOATS, st.text())
BEYOND = [2**63, -(2**63) - 1, 10**30]


def comparison(value: object) -> str:
    return json.dumps({"type": "lt", "key": "v:big", "value": value})


@given(st.one_of(st.none(), *SCALARS, *(st.lists(scalar, max_size=3) for scalar in SCALARS)))
def test_the_server_reads_what_was_typed(value):
    read = retrieve_query(pb.RetrieveRequest(context={"value": wire_value(value)})).context["value"]
    assert read == (tuple(value) if isinstance(value, list) else value)
    kinds = [[type(e) for e in v] if isinstance(v, list | tuple) else type(v) for v in (read, value)]
    assert kinds[0] == kinds[1]


def test_truth_values_are_a_list_of_their_own():
    message = wire_filter('{"type": "in", "key": "v:adult", "value": [true, false]}')
    assert message is not None
    assert message.comparison.value == pb.Value(bool_list=pb.BoolList(values=[True, False]))
    assert wire_context(["v:moods=[true]"]) == {"v:moods": pb.Value(bool_list=pb.BoolList(values=[True]))}


@pytest.mark.parametrize("number", BEYOND)
@pytest.mark.parametrize("value", ["{}", "[1, {}]"])
def test_a_whole_number_beyond_int64_is_refused_by_the_option(number, value):
    text = value.format(number)
    with pytest.raises(click.UsageError, match=rf"--context 'v:age=.*{number} is beyond int64.*with a decimal point"):
        wire_context([f"v:age={text}"])
    with pytest.raises(click.UsageError, match=rf"--filter: filter\.value: {number} is beyond int64"):
        wire_filter(f'{{"type": "lt", "key": "v:big", "value": {text}}}')
    assert wire_context([f"v:spend={number}.0"]) == {"v:spend": pb.Value(double_value=float(number))}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "--filter is no JSON"),
        ("[" * 100_000, "nested more than 32 deep"),
        ("[]", "--filter: filter must be an object with a type"),
        (comparison([1, "a"]), r"--filter: filter\.value: \(1, 'a'\) is no text, number"),
        (comparison({"a": 1}), r"--filter: filter\.value: \{'a': 1\} is no text, number"),
        (f'{{"type": "or", "filters": [{comparison(2**63)}]}}', r"--filter: filter\.filters\[0\]\.value: 9223372036"),
        ('{"type": "or", "filters": [{"type": "like"}]}', r"--filter: filter\.filters\[0\]\.type: unknown type 'like'"),
    ],
)
def test_a_filter_that_says_nothing_is_wrong_usage(text, says):
    with pytest.raises(click.UsageError, match=says):
        wire_filter(text)


def test_a_value_that_is_no_json_is_text():
    assert wire_context(["v:name=O'Neil"]) == {"v:name": pb.Value(string_value="O'Neil")}
    deep = "[" * 100_000
    assert wire_context([f"v:name={deep}"]) == {"v:name": pb.Value(string_value=deep)}


@pytest.mark.parametrize(("pair", "says"), [("age", "must read NAME=JSON"), ('v:a={"b": 1}', r"\{'b': 1\} is no text")])
def test_a_context_that_says_nothing_is_wrong_usage(pair, says):
    with pytest.raises(click.UsageError, match=says):
        wire_context([pair])
