"""The `recsys:` section of `feature_store.yaml`.

Feast keeps unknown top-level sections, so one file configures both. Paths are relative to the Feast repository.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.index_settings import IndexSettings, MeasuredIndex, setting_path
from feast_recsys.features.reranking_settings import Reranking
from feast_recsys.features.serving_settings import Serving, check_limits
from feast_recsys.features.source_settings import Source, check_sources

SECTION = "recsys"

Reference = Annotated[str, Field(pattern=r"^[^:]+:[^:]+$", description="view:feature")]
Positive = Annotated[int, Field(gt=0)]

RetrievalFamily = Literal[
    "two_tower", "content", "audio", "mult_dae", "mult_vae", "deep_autoencoder", "als", "bpr", "ease", "item_knn",
    "popularity",
]  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Interactions(_Section):
    """Where training labels come from: one row per user, item and moment."""

    path: str
    """Parquet file (or folder of such) with the join keys of user and item as columns."""
    timestamp: str = "event_timestamp"
    """Column with the moment, a timestamp."""
    label: str | None = None
    """Numeric column that says how much the user liked it; None where every row is a like."""
    positive_from: float = 1.0
    """Smallest label that counts as a like."""


class Retrieval(_Section):
    """The first stage of a recommender."""

    model: str = ""
    """Name of the exported model; `<recommender>_retrieval` if empty."""
    vectors: Reference | None = None
    """Feature that `materialize` writes the item vectors to; None keeps them in the bundle only."""
    user_vectors: Reference | None = None
    """Feature that `materialize` writes the query vector of every user to, for other models to use; None for none. Of
    an autoencoder it begins with its last layer before the scores: with one hidden layer, the code of the user."""
    family: RetrievalFamily = "two_tower"
    """What `feast-recsys train` trains: `two_tower` from the features of both sides; `content` and `audio`, which put
    new items where their content says; `mult_dae`, `mult_vae` and `deep_autoencoder`, `als`, `bpr`, `ease`, `item_knn`
    and `popularity`, which know items by their ids only."""
    query: str | None = None
    """Feature service of the user side, for `train`."""
    item: str | None = None
    """Feature service of the item side, for `train`."""
    history: Reference | None = None
    """List feature of the user with item ids, most recent first, for `train`."""
    ratings: Reference | None = None
    """List feature of the user, parallel to `history`: what each item was rated; for families that take ratings."""
    audio: Reference | None = None
    """Item feature with the path of its sound file, relative to the repository; for `audio`. A file that changes needs
    another name, or `materialize --full`. Of a track with `threshold` plays or more, it counts in the next training
    only."""
    hyperparameters: Mapping[str, Any] = {}
    """Of the family, by name, instead of its defaults; docs/models.md lists them."""
    index: IndexSettings = MeasuredIndex()
    """What searches the item vectors: the fastest that reaches a recall, or with `kind` a fixed one; see
    docs/retrieval.md."""


class Ranking(_Section):
    """The second stage of a recommender."""

    model: str = ""
    """Name of the exported model; `<recommender>_ranking` if empty."""
    family: Literal["wide_and_deep"] = "wide_and_deep"
    """What `feast-recsys train` trains."""
    features: str | None = None
    """Feature service of both sides, for `train`."""
    crosses: tuple[tuple[str, ...], ...] = ()
    """References whose products feed the wide part, for `train`: pairs of a user's and an item's mostly, the user's
    first; one alone is a weight for each of its values."""
    hyperparameters: Mapping[str, Any] = {}
    """Of the family, by name, instead of its defaults; docs/models.md lists them."""


class Recommender(_Section):
    """A named pair of a retrieval model and a ranking model: what a caller asks for."""

    retrieval: Retrieval = Retrieval()
    """The first stage."""
    ranking: Ranking | None = Ranking()
    """The second stage. None serves retrieval alone; Rank and Recommend are then refused."""
    seen: tuple[Reference, ...] = ()
    """List features of the user with item ids that `exclude_seen` leaves out."""
    exclude_seen: bool = True
    """What a request that says nothing gets."""
    top_k: Positive = 10
    """Number of items of Recommend when the request says 0; no more than `candidates`."""
    candidates: Annotated[int, Field(gt=0, validate_default=True)] = 50
    """Number of items of Retrieve when the request says 0, and of candidates inside Recommend, where more are ranked if
    the request wants more back. No more than `serving.max_top_k` and `serving.max_candidates`."""
    title: Reference | None = None
    """Item feature that the client commands print."""
    reranking: Reranking = Reranking()
    """How ranked items are arranged where a request does not say; needs `ranking`."""
    sources: tuple[Source, ...] = ()
    """Where candidates come from, in the order in which an item that several have counts for one of them. Empty takes
    them all from `retrieval`."""
    fallback: str | None = None
    """Name of a source of kind `popular` or `recent`: it takes the place of those that look at the user, where nothing
    is known of that user."""

    @field_validator("candidates")
    @classmethod
    def _suffice(cls, candidates: int, info: ValidationInfo) -> int:
        """Recommend returns the best of the candidates."""
        top_k = info.data.get("top_k", 0)
        if info.data.get("ranking") is not None and candidates < top_k:
            raise PydanticCustomError(
                "candidates",
                "Recommend returns top_k = {top_k} of {candidates} candidates; raise `candidates`, or lower `top_k`",
                {"top_k": top_k, "candidates": candidates},
            )
        return candidates

    @field_validator("reranking")
    @classmethod
    def _need_ranking(cls, reranking: Reranking, info: ValidationInfo) -> Reranking:
        if "ranking" in info.data and info.data["ranking"] is None and reranking != Reranking():
            raise PydanticCustomError(
                "reranking",
                "nothing is ranked where `ranking` is null, so nothing can be arranged; remove `reranking`, or set "
                "`ranking`",
            )
        return reranking

    @field_validator("sources")
    @classmethod
    def _fit_sources(cls, sources: tuple[Source, ...], info: ValidationInfo) -> tuple[Source, ...]:
        retrieval: Retrieval | None = info.data.get("retrieval")
        return sources if retrieval is None else check_sources(sources, retrieval.history)

    @field_validator("fallback")
    @classmethod
    def _know_fallback(cls, fallback: str | None, info: ValidationInfo) -> str | None:
        names = [source.name for source in info.data.get("sources") or () if source.kind in ("popular", "recent")]
        if fallback is not None and "sources" in info.data and fallback not in names:
            raise PydanticCustomError(
                "fallback",
                "no source of kind popular or recent is called {name}; there are: {known}",
                {"name": fallback, "known": ", ".join(names) or "none"},
            )
        return fallback


class Settings(_Section):
    """The whole section."""

    user: str = "user"
    """Feast entity that asks."""
    item: str = "item"
    """Feast entity that is recommended."""
    catalogue: str
    """Feature view whose keys are the items that exist."""
    serving: Serving = Serving()
    """For `serve`."""
    recommenders: Annotated[Mapping[str, Recommender], Field(min_length=1)]
    """By name."""
    interactions: Annotated[Interactions | None, Field(validate_default=True)] = None
    """For `train`, and for sources that count likes."""
    bundles: str = "data/bundles"
    """Folder of bundles."""
    keep_bundles: Annotated[int, Field(ge=2)] = 3
    """Bundles kept on disk, the current one included."""
    models: str = "data/models"
    """Folder of exported models."""
    checkpoints: str = "data/checkpoints"
    """Folder of trained checkpoints."""

    @field_validator("recommenders")
    @classmethod
    def _keep_limits(cls, recommenders: Mapping[str, Recommender], info: ValidationInfo) -> Mapping[str, Recommender]:
        """What a request may not ask for is no default either."""
        if "serving" in info.data:
            for name, recommender in recommenders.items():
                check_limits(name, recommender.candidates, recommender.reranking, info.data["serving"])
        return recommenders

    @field_validator("interactions")
    @classmethod
    def _count_likes(cls, interactions: Interactions | None, info: ValidationInfo) -> Interactions | None:
        for name, recommender in (info.data.get("recommenders") or {}).items():
            for source in recommender.sources:
                if source.counts_likes and interactions is None:
                    raise PydanticCustomError(
                        "interactions",
                        "source {source} of recommender {name} counts likes; give `interactions` the path of a Parquet "
                        "file",
                        {"source": source.name, "name": name},
                    )
        return interactions

    @model_validator(mode="before")
    @classmethod
    def _name_models(cls, data: Any) -> Any:
        """Gives each stage without a model name its own."""
        for name, recommender in (data.get("recommenders") or {}).items() if isinstance(data, dict) else ():
            if isinstance(recommender, dict):
                for stage in ("retrieval", "ranking"):
                    section = recommender.setdefault(stage, {})
                    if isinstance(section, dict):
                        section.setdefault("model", f"{name}_{stage}")
        return data

    def recommender(self, name: str) -> Recommender:
        """The recommender of that name.

        Raises:
            InvalidSettings: there is none; lists those that exist.
        """
        if name not in self.recommenders:
            known = ", ".join(sorted(self.recommenders))
            raise InvalidSettings(f"no recommender {name!r} in the settings; there are: {known}", field="recommenders")
        return self.recommenders[name]


def parse_settings(section: Any, file: Path) -> Settings:
    """Checks the `recsys` section of a `feature_store.yaml`.

    Args:
        section: What YAML made of it; None if the file has no such section.
        file: Where it was read, for messages.

    Raises:
        InvalidSettings: names the path of the first wrong setting and what is expected there.
    """
    if section is None:
        raise InvalidSettings(
            f"{file} has no `{SECTION}:` section; add one with at least `catalogue:` and `recommenders:`", field=SECTION
        )
    try:
        return Settings.model_validate(section)
    except ValidationError as error:
        first = error.errors()[0]
        path = setting_path(SECTION, first["loc"])
        message = first["msg"]
        raise InvalidSettings(f"{file}: {path}: {message[0].lower()}{message[1:]}", field=path) from error


def load_settings(repo_path: Path, feature_store_yaml: Path | None = None) -> Settings:
    """Reads the section without opening Feast, for commands that only talk to a server.

    Args:
        repo_path: Folder of the Feast repository.
        feature_store_yaml: Its configuration file; `feature_store.yaml` in that folder if None.

    Raises:
        InvalidSettings: the file is missing or no YAML, or the section is wrong.
    """
    file = feature_store_yaml or repo_path / "feature_store.yaml"
    try:
        document = yaml.safe_load(os.path.expandvars(file.read_text("utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidSettings(
            f"{file} can't be read: {error}; run inside a Feast repository, or name it with --chdir"
        ) from error
    return parse_settings(document.get(SECTION) if isinstance(document, dict) else None, file)
