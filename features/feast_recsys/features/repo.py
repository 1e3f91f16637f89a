"""A Feast repository with our settings, and the keys of its users and items."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.bundle.hints import shown
from feast_recsys.bundle.signature import Side
from feast_recsys.features.feast_api import (
    FeastObjectNotFoundException,
    FeatureStore,
    ValueType,
)
from feast_recsys.features.settings import SECTION, Settings, parse_settings

CONFIGURATION_FILE = "feature_store.yaml"
KEY_TYPES = {ValueType.INT32: DType.INT64, ValueType.INT64: DType.INT64, ValueType.STRING: DType.STRING}

# As `str` writes an int: the one text of each id, so that no id has a second name.
_PLAIN = re.compile(r"0|-?[1-9][0-9]*")
_MOST_DIGITS = 20
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Repo:
    """A Feast repository.

    Attributes:
        store: Feast's own handle. It connects to registry and stores when first used.
        settings: The `recsys` section.
        path: Absolute path of the folder that relative paths of the settings start from.
    """

    store: FeatureStore
    settings: Settings
    path: Path

    def resolve(self, relative: str) -> Path:
        """The absolute path of a path setting."""
        return self.path / relative


def open_repo(path: Path, feature_store_yaml: Path | None = None) -> Repo:
    """Reads the configuration of a Feast repository. Neither the registry nor a store is touched.

    Args:
        path: Folder of the repository.
        feature_store_yaml: Another configuration file than the folder's `feature_store.yaml`.

    Raises:
        InvalidRepository: there is no such file, or Feast refuses it.
        InvalidSettings: its `recsys` section is missing or wrong.
    """
    folder = path.resolve()
    file = feature_store_yaml if feature_store_yaml is not None else folder / CONFIGURATION_FILE
    if not file.is_file():
        raise InvalidRepository(
            f"{file} does not exist; run this inside a Feast repository, or name its folder or configuration file",
            field=CONFIGURATION_FILE,
        )
    try:
        store = FeatureStore(repo_path=str(folder), fs_yaml_file=file)
    except Exception as error:  # from YAML, pydantic, or classes that the file names
        raise InvalidRepository(f"Feast can't read {file}: {error}", field=CONFIGURATION_FILE) from error
    section = (store.config.model_extra or {}).get(SECTION)
    return Repo(store, parse_settings(section, file), folder)


@dataclass(frozen=True)
class EntityKey:
    """What identifies a user or an item.

    Attributes:
        entity: Name of the Feast entity.
        join_key: Column that holds the id.
        dtype: INT64 or STRING.
    """

    entity: str
    join_key: str
    dtype: DType

    def parse(self, text: str, path: str = "") -> int | str:
        """The id that a text, such as one from the wire, stands for.

        Args:
            text: The id; where ids are numbers in plain digits: "7", not "007", "+7" or " 7".
            path: What messages call the text; the join key if empty.

        Raises:
            InvalidArgument: the text is empty, or no plain number of 64 bits where the ids are numbers; `field` is
                the path.
        """
        path = path or self.join_key
        if not text:
            raise InvalidArgument(f"{path} is empty; give the id of a {self.entity}", field=path)
        if self.dtype is DType.STRING:
            return text
        if not _PLAIN.fullmatch(text):
            raise InvalidArgument(
                f"{path} {shown(text)} is not a whole number in plain digits, such as 7; no zeros, plus sign "
                "or blanks before it",
                field=path,
            )
        if len(text) > _MOST_DIGITS:  # before `int`, which refuses thousands of digits by an error of its own
            raise _beyond(path, text)
        return self._in_range(int(text), path)

    def format(self, value: int | str) -> str:
        """The text for an id; the inverse of `parse`."""
        return str(value)

    def coerce(self, value: Any) -> int | str:
        """An id as Feast stores it, from a Python or NumPy value of either type.

        Raises:
            InvalidArgument: it is null, of another type, or out of range.
        """
        if isinstance(value, str):
            return value if self.dtype is DType.STRING else self.parse(value)
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return str(value) if self.dtype is DType.STRING else self._in_range(int(value), self.join_key)
        raise InvalidArgument(f"{self.join_key} {value!r} is not a {self.dtype.value} id", field=self.join_key)

    def _in_range(self, value: int, path: str) -> int:
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise _beyond(path, str(value))
        return value


def _beyond(path: str, digits: str) -> InvalidArgument:
    return InvalidArgument(f"{path} {shown(digits)} does not fit into 64 bits", field=path)


def entity_key(repo: Repo, side: Side) -> EntityKey:
    """The key of users or items.

    Raises:
        InvalidRepository: the registry has no such entity, or its ids are neither integers nor strings.
    """
    if side is Side.CONTEXT:
        raise InvalidRepository("context features come with the request; they belong to no entity", field=side.value)
    name = repo.settings.user if side is Side.USER else repo.settings.item
    return key_of(repo, name, f"{SECTION}.{side.value}")


def key_of(repo: Repo, name: str, named_by: str) -> EntityKey:
    """The key of any entity.

    Args:
        repo: The repository; its registry may come from Feast's cache.
        name: Name of the entity.
        named_by: The setting or view that names it, for messages.

    Raises:
        InvalidRepository: the registry has no such entity, or its ids are neither integers nor strings.
    """
    store = repo.store
    try:
        entity = store.registry.get_entity(name, store.project, allow_cache=True)
    except FeastObjectNotFoundException:
        known = ", ".join(sorted(e.name for e in store.registry.list_entities(store.project, allow_cache=True)))
        raise InvalidRepository(
            f"the Feast repository has no entity {name!r} ({named_by}); it has: {known or 'none, run `feast apply`'}",
            field=named_by,
        ) from None
    value_type = entity.value_type
    if value_type is ValueType.UNKNOWN:
        value_type = _type_in_views(repo, name, entity.join_key)
    if value_type not in KEY_TYPES:
        raise InvalidRepository(
            f"entity {name!r} has ids of type {value_type.name}; declare INT64, INT32 or STRING as its value_type",
            field=named_by,
        )
    return EntityKey(name, entity.join_key, KEY_TYPES[value_type])


def _type_in_views(repo: Repo, entity: str, join_key: str) -> ValueType:
    """The type that Feast inferred for an entity declared without one: it stands in the feature views only."""
    views = repo.store.registry.list_feature_views(repo.store.project, allow_cache=True)
    for view in sorted(views, key=lambda v: v.name):
        for column in view.entity_columns if entity in view.entities else ():
            if column.name == join_key:
                return column.dtype.to_value_type()
    return ValueType.UNKNOWN
