"""Decoding one row in advance-compiled form means what decoding any number of rows means."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle import assert_same

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import InvalidRepository, StaleFeature
from feast_recsys.features.decode import Decoder
from feast_recsys.features.plan import Slot, StalePolicy, ViewPlan
from feast_recsys.features.row_decoder import RowDecoder
from feast_recsys.features.rows import stale_rows
from feast_recsys.features.views import KINDS, ValueKind

NOW = int(time.time())
floats = st.floats(width=32) | st.floats(width=32).map(lambda x: -x)
scalars: dict[str, st.SearchStrategy[Any]] = {
    "int32_val": st.integers(-(2**31), 2**31 - 1),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "float_val": floats,
    "double_val": st.floats() | st.sampled_from([3.4028234663852886e38, 3.4028235e38, 3.41e38, -1e300]),
    "bool_val": st.booleans(),
    "string_val": st.text(st.characters(codec="utf-8")),
    "unix_timestamp_val": st.integers(-(2**63), 2**63 - 1) | st.just(-(2**63)),
}
values = scalars | {
    f"{name.removesuffix('_val')}_list_val": st.lists(elements, max_size=5) for name, elements in scalars.items()
}
kinds = st.sampled_from(sorted(KINDS.values(), key=lambda kind: kind.field))


@st.composite
def messages(draw: st.DrawFn, kind: ValueKind) -> Value | None:
    """A value of the kind, mostly; or none, an unset one, or one that was stored under another type."""
    what = draw(st.sampled_from(["value"] * 6 + ["absent", "unset", "other"]))
    if what == "absent":
        return None
    if what == "unset":
        return Value()
    field = kind.field if what == "value" else draw(st.sampled_from(sorted(values)))
    value = draw(values[field])
    return Value(**{field: {"val": value} if field.endswith("_list_val") else value})


@st.composite
def rows(draw: st.DrawFn) -> tuple[ViewPlan, list[Value | None], int]:
    chosen = draw(st.lists(kinds, min_size=1, max_size=6))
    slots = tuple(Slot(f"view:f{at}", f"f{at}", f"view__f{at}", kind) for at, kind in enumerate(chosen))
    policy: StalePolicy = draw(st.sampled_from(("serve", "default", "fail")))
    ttl = draw(st.sampled_from([0.0, 1e6]))
    plan = ViewPlan("view", "view", slots, tuple(slot.feature for slot in slots), None, (), ttl, policy)
    moment = draw(st.sampled_from([0, 1, NOW - 2_000_000, NOW]))
    return plan, [draw(messages(kind)) for kind in chosen], moment


def by_rows(view: ViewPlan, row: list[Value | None], moment: int) -> dict[str, Column]:
    timestamps = np.array([moment], np.int64)
    stale = stale_rows(view, timestamps)
    return {
        slot.reference: Decoder(slot, view.stale).decode([message], timestamps, stale)
        for slot, message in zip(view.slots, row, strict=True)
    }


def by_row(view: ViewPlan, row: list[Value | None], moment: int) -> dict[str, Column]:
    columns: dict[str, Any] = dict.fromkeys(slot.reference for slot in view.slots)
    RowDecoder(view).decode(row, moment, columns)
    return columns


@settings(max_examples=300, deadline=None)
@given(row=rows())
def test_one_row_is_decoded_as_any_number_of_rows_is(row: tuple[ViewPlan, list[Value | None], int]) -> None:
    try:
        expected = by_rows(*row)
    except (InvalidRepository, StaleFeature):
        # With several culprits any of them may be named.
        with pytest.raises((InvalidRepository, StaleFeature)):
            by_row(*row)
        return
    assert_same(by_row(*row), expected)


def test_columns_of_one_row_can_not_change_each_other() -> None:
    kind = KINDS[next(iter(KINDS))]
    slots = tuple(Slot(f"view:{name}", name, name, kind) for name in "ab")
    view = ViewPlan("view", "view", slots, ("a", "b"), None, (), 0.0, "serve")
    columns = by_row(view, [Value(int32_val=1), Value(int32_val=2)], 5)
    columns["view:a"].values[:] = 9
    assert columns["view:b"].to_list() == [2]
    for shared in (columns["view:a"].status, columns["view:a"].valid):
        with pytest.raises(ValueError, match="read-only"):
            shared[:] = 0
