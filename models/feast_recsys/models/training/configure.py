"""Hyperparameters from the settings: the defaults of a family, with what the user wants otherwise."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from feast_recsys.bundle.errors import InvalidSettings

Config = TypeVar("Config")


def configure(kind: type[Config], values: Mapping[str, Any], field: str) -> Config:
    """A configuration with some values set.

    Args:
        kind: A frozen dataclass with a default for every field.
        values: By field name.
        field: Path of the setting, for messages.

    Raises:
        InvalidSettings: a name that the family does not have, or a value of another type; names it.
    """
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # callers give dataclasses
    hints = typing.get_type_hints(kind)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise InvalidSettings(
                f"{field}.{name}: there is no such hyperparameter; there are {', '.join(sorted(known))}",
                field=f"{field}.{name}",
            )
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise InvalidSettings(f"{field}.{name}: {reason}", field=f"{field}.{name}") from error
    return kind(**checked)


def restore(kind: type[Config], kept: Mapping[str, Any]) -> Config:
    """The configuration that `dataclasses.asdict` and JSON made into plain values: lists become tuples again.

    Raises:
        InvalidSettings: it was kept by another version.
    """
    return configure(kind, kept, "hyperparameters")
