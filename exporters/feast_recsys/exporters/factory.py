"""Users' own modules and signatures: `package.module:factory` and a YAML file."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.signature import Role, Signature
from feast_recsys.bundle.vocabulary import Vocabulary


@dataclass(frozen=True)
class Declaration:
    """What a user declares about modules of their own.

    Attributes:
        signature: Its graphs have no files yet.
        vocabularies: By the names that its inputs give.
    """

    signature: Signature
    vocabularies: Mapping[str, Vocabulary]


def load_declaration(path: Path) -> Declaration:
    """Reads a signature and its vocabularies, whose files are looked for beside the signature.

    Args:
        path: The YAML file, or a folder with `model.yaml`.

    Raises:
        CorruptArtifact: the signature is missing or no YAML.
        InvalidSignature: it is wrong, or a vocabulary is missing or broken; names the feature.
    """
    signature = Signature.load(path)
    folder = path if path.is_dir() else path.parent
    vocabularies: dict[str, Vocabulary] = {}
    for role, graph in signature.graphs.items():
        for spec in graph.inputs:
            for file in spec.files:
                if file in vocabularies:
                    continue
                try:
                    vocabularies[file] = Vocabulary.load(folder / file)
                except (CorruptArtifact, InvalidSignature) as error:
                    key = "vocabulary" if file == spec.vocabulary else "known"
                    raise InvalidSignature(
                        f"{spec.feature}: {error}", field=f"graphs.{role.value}.{spec.name}.{key}"
                    ) from error
    return Declaration(signature, vocabularies)


def load_factory(spec: str) -> nn.Module | dict[Role, nn.Module]:
    """Imports and calls what makes a user's modules. The current directory can be imported from.

    Args:
        spec: `package.module:factory`. The factory takes no arguments; a module class will do.

    Returns:
        One module, or modules by role.

    Raises:
        InvalidSignature: it can't be imported or called, or gives something else.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise InvalidSignature(f"{spec!r} must read package.module:factory", field="factory")
    with _current_directory():
        factory = _find(module_name, attribute)
        if isinstance(factory, nn.Module):
            made: Any = factory
        elif callable(factory):
            made = _call(spec, factory)
        else:
            raise InvalidSignature(
                f"{spec} is a {type(factory).__name__}; name a function without arguments that returns the module",
                field="factory",
            )
    return _modules(spec, made)


def modules_by_role(loaded: nn.Module | Mapping[Role, nn.Module], signature: Signature) -> dict[Role, nn.Module]:
    """Gives a single module the only role of the signature.

    Raises:
        InvalidSignature: the signature has several roles, so that a mapping is needed.
    """
    if not isinstance(loaded, nn.Module):
        return dict(loaded)
    if len(signature.graphs) > 1:
        roles = ", ".join(role.value for role in signature.graphs)
        raise InvalidSignature(
            f"{signature.name} has the graphs {roles}; the factory must return a mapping with a module for each",
            field="factory",
        )
    return dict.fromkeys(signature.graphs, loaded)


def _find(module_name: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists may itself import one that does not: two different mistakes.
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise InvalidSignature(
                f"no module {error.name!r}, neither installed nor in {os.getcwd()}", field="factory"
            ) from error
        raise InvalidSignature(f"importing {module_name} fails: {error}", field="factory") from error
    except Exception as error:  # whatever the user's code raises
        raise InvalidSignature(
            f"importing {module_name} fails: {type(error).__name__}: {error}", field="factory"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidSignature(f"{module_name} has no {attribute!r}", field="factory")
        found = getattr(found, part)
    return found


def _call(spec: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except Exception as error:  # whatever the user's code raises
        raise InvalidSignature(f"calling {spec} fails: {type(error).__name__}: {error}", field="factory") from error


def _modules(spec: str, made: Any) -> nn.Module | dict[Role, nn.Module]:
    if isinstance(made, nn.Module) and not isinstance(made, nn.ModuleDict):
        return made
    if not isinstance(made, Mapping | nn.ModuleDict):
        raise InvalidSignature(
            f"{spec} gives a {type(made).__name__}; return a torch.nn.Module, or a mapping of role to module",
            field="factory",
        )
    modules = {}
    for key, module in made.items():
        try:
            role = Role(key)
        except ValueError:
            roles = ", ".join(r.value for r in Role)
            raise InvalidSignature(f"{spec}: {key!r} is no role; roles are {roles}", field="factory") from None
        if not isinstance(module, nn.Module):
            raise InvalidSignature(
                f"{spec}: {role.value} is a {type(module).__name__}; return a torch.nn.Module", field="factory"
            )
        modules[role] = module
    return modules


@contextmanager
def _current_directory() -> Iterator[None]:
    """Lets imports find modules of the current directory, as `python -m` does."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
