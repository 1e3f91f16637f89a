"""Keys put together in advance are the keys that Feast writes."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.features.keys import KeyColumn, coerce_row, key_message, key_serializer
from feast_recsys.features.repo import EntityKey

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int32_val": st.integers(-(2**31), 2**31 - 1),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "string_val": st.text(),
}
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@st.composite
def keys(draw: st.DrawFn) -> tuple[tuple[KeyColumn, ...], tuple[Any, ...]]:
    columns, ids = [], []
    for name in draw(st.lists(names, max_size=4, unique=True)):
        field = draw(st.sampled_from(sorted(VALUES)))
        dtype = DType.STRING if field == "string_val" else DType.INT64
        columns.append(KeyColumn(name, EntityKey("entity", f"column of {name}", dtype), field))
        ids.append(draw(VALUES[field]))
    return tuple(columns), tuple(ids)


@given(key=keys())
def test_keys_serialize_as_feast_serializes_them(key: tuple[tuple[KeyColumn, ...], tuple[Any, ...]]) -> None:
    columns, ids = key
    expected = serialize_entity_key(key_message(columns, ids), entity_key_serialization_version=3)
    assert key_serializer(columns)(ids) == expected


def column(field: str) -> KeyColumn:
    dtype = DType.STRING if field == "string_val" else DType.INT64
    return KeyColumn("stored", EntityKey("user", "asked", dtype), field)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [("int32_val", 2**31, "32 bits"), ("int32_val", -(2**31) - 1, "32 bits"), ("string_val", "\ud800", "surrogates")],
)
def test_ids_that_do_not_fit_name_the_column_of_the_request(field: str, value: Any, why: str) -> None:
    columns = (column(field),)
    for make in (lambda: key_serializer(columns)((value,)), lambda: key_message(columns, (value,))):
        with pytest.raises(InvalidArgument, match=f"asked.*{why}") as caught:
            make()
        assert caught.value.field == "asked"
        assert isinstance(caught.value.__cause__, ValueError | struct.error)


def test_a_row_is_brought_to_the_types_of_its_entities() -> None:
    join_keys = {"user_id": EntityKey("user", "user_id", DType.INT64), "shop": EntityKey("shop", "shop", DType.STRING)}
    assert coerce_row(join_keys, {"shop": 7, "user_id": "12", "more": None}) == {"user_id": 12, "shop": "7"}
    with pytest.raises(InvalidArgument, match=r"lacks shop; give the id of a shop") as caught:
        coerce_row(join_keys, {"user_id": 1})
    assert caught.value.field == "shop"
