"""A feature of every type that we support, with values at the edges of it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from feast.types import Array, Bool, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp
from support.feast_repo import at

NAN = float("nan")
MOMENT = pa.timestamp("us", "UTC")

# Feature, its type in Feast, its type in the source, and the values for five users.
EVERY_TYPE: list[tuple[str, FeastType, pa.DataType, list[Any]]] = [
    ("int32", Int32, pa.int32(), [7, -1, 0, None, 2**31 - 1]),
    ("int64", Int64, pa.int64(), [7, -(2**40), 0, None, 2**52]),
    ("exact_int64", Int64, pa.int64(), [2**63 - 1, -(2**63), 2**53 + 1, 0, 1]),
    ("float32", Float32, pa.float32(), [0.1, NAN, 0.0, None, -3e38]),
    ("float64", Float64, pa.float64(), [0.1, NAN, -0.0, None, 12345.678]),
    ("bool", Bool, pa.bool_(), [True, False, True, None, False]),
    ("string", String, pa.string(), ["a", "", "žluťoučký 🐎", None, " padded "]),
    ("moment", UnixTimestamp, MOMENT, [at(0.75), at(-1e9), at(1), None, at(2e9)]),
    ("int32s", Array(Int32), pa.list_(pa.int32()), [[1, 2], [], [-5], None, [2**31 - 1]]),
    ("int64s", Array(Int64), pa.list_(pa.int64()), [[2**53 + 1], [], [0, 0], None, list(range(60))]),
    ("float32s", Array(Float32), pa.list_(pa.float32()), [[0.1, NAN], [], [1.0], None, [-1.5, 2.5]]),
    ("float64s", Array(Float64), pa.list_(pa.float64()), [[0.1], [], [NAN], None, [1.0, 2.0]]),
    ("bools", Array(Bool), pa.list_(pa.bool_()), [[True, False], [], [False], None, [True]]),
    ("strings", Array(String), pa.list_(pa.string()), [["x", ""], [], ["ž"], None, ["y", None, "z"]]),
    ("moments", Array(UnixTimestamp), pa.list_(MOMENT), [[at(0.75)], [], [at(1), at(5)], None, [at(-1)]]),
]
