"""`doctor`: everything held against everything before anything is served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml
from pydantic import ValidationError

from feast_recsys.bundle.errors import RecsysError
from feast_recsys.bundle.signature import Side, Stage
from feast_recsys.features.index_settings import setting_path
from feast_recsys.features.repo import CONFIGURATION_FILE, Repo, open_repo
from feast_recsys.features.settings import SECTION, Settings
from feast_recsys.jobs import check_feast, check_models, check_split
from feast_recsys.jobs.check_sources import check_sources
from feast_recsys.jobs.findings import Check, Finding, ok, run_checks

__all__ = ["Finding", "examine", "examine_folder"]


def examine_folder(path: Path, feature_store_yaml: Path | None = None) -> list[Finding]:
    """Examines a repository that may not even open. Never raises.

    Args:
        path: Folder of the Feast repository.
        feature_store_yaml: Its configuration file; `feature_store.yaml` in that folder if None.
    """
    findings = list(run_checks([("settings", partial(_settings, feature_store_yaml or path / CONFIGURATION_FILE))]))
    if any(finding.severity == "error" for finding in findings):
        return findings
    try:
        repo = open_repo(path, feature_store_yaml)
    except RecsysError as error:
        return [*findings, Finding("error", error.field or CONFIGURATION_FILE, error.message)]
    except Exception as error:  # Feast raises whatever its parts raise
        message = f"Feast can't open the repository: {type(error).__name__}: {error}"
        return [*findings, Finding("error", CONFIGURATION_FILE, message)]
    return [*findings, *examine(repo)]


def examine(repo: Repo) -> list[Finding]:
    """Holds repository, exported models and bundle against one another.

    Reports all problems, not only the first; a check that can't be made is a problem too. Writes nothing.
    """
    models: check_models.Models = {}
    findings = list(run_checks([("feature_store.yaml", partial(check_feast.check_configuration, repo))]))
    registry = list(run_checks([("registry", partial(check_feast.check_registry, repo))]))
    findings += registry
    if any(finding.severity == "error" for finding in registry):
        # Everything else would only repeat it, except for what needs no registry.
        return [*findings, *run_checks([("models", partial(check_models.open_models, repo, models))])]
    findings += run_checks(_repository_checks(repo))
    findings += run_checks([("models", partial(check_models.open_models, repo, models))])
    findings += run_checks(_model_checks(repo, models))
    findings += run_checks([("bundle", partial(check_models.check_bundle, repo, models))])
    return list(dict.fromkeys(findings))


def _repository_checks(repo: Repo) -> Iterator[tuple[str, Check]]:
    yield f"{SECTION}.user", partial(check_feast.check_entity, repo, Side.USER)
    yield f"{SECTION}.item", partial(check_feast.check_entity, repo, Side.ITEM)
    yield f"{SECTION}.catalogue", partial(check_feast.check_catalogue, repo)
    for name in repo.settings.recommenders:
        subject = f"{SECTION}.recommenders.{name}"
        yield f"{subject}.seen", partial(check_feast.check_seen, repo, name)
        yield f"{subject}.title", partial(check_feast.check_title, repo, name)
        yield f"{subject}.sources", partial(check_sources, repo, name)
        yield f"{subject}.reranking", partial(check_feast.check_caps, repo, name)
        yield subject, partial(check_feast.check_training, repo, name)
    yield "item vectors", partial(check_feast.check_vectors, repo)
    yield f"{SECTION}.interactions", partial(check_feast.check_interactions, repo)
    yield f"{SECTION}.serving.stale", partial(check_feast.check_stale, repo)


def _model_checks(repo: Repo, models: check_models.Models) -> Iterator[tuple[str, Check]]:
    seen = set()
    for (_, stage), model in models.items():
        if model.name in seen:
            continue
        seen.add(model.name)
        yield model.name, partial(check_models.check_inputs, repo, model)
        yield model.name, partial(check_models.check_services, repo, model)
        if stage is Stage.RETRIEVAL:
            yield model.name, partial(check_models.check_dimension, repo, model)
        else:
            yield model.name, partial(check_split.check_split, repo, model)
    references = check_models.references_of(repo, models)
    yield "online_store", partial(check_feast.check_online, repo, references)


def _settings(file: Path) -> Iterator[Finding]:
    """All wrong settings at once; opening the repository would tell the first only."""
    try:
        document = yaml.safe_load(os.path.expandvars(file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        yield Finding("error", str(file), f"it can't be read: {error}", "run inside a Feast repository, or name it")
        return
    section = document.get(SECTION) if isinstance(document, dict) else None
    if section is None:
        remedy = "add one with at least `catalogue:` and `recommenders:`"
        yield Finding("error", SECTION, f"{file} has no `{SECTION}:` section", remedy)
        return
    try:
        settings = Settings.model_validate(section)
    except ValidationError as error:
        for wrong in error.errors():
            path = setting_path(SECTION, wrong["loc"])
            yield Finding("error", path, wrong["msg"], f"correct it in {file}")
        return
    yield ok(SECTION, f"recommenders: {', '.join(sorted(settings.recommenders))}")
