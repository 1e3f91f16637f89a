"""Which Feast repository a command works in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from feast_recsys.bundle.errors import InvalidSettings

if TYPE_CHECKING:
    from feast_recsys.features.repo import Repo
    from feast_recsys.features.settings import Settings


@dataclass(frozen=True)
class Location:
    """A repository's folder and configuration file, as `-c` and `-f` name them."""

    folder: Path
    feature_store_yaml: Path | None = None

    def settings(self) -> Settings:
        """The `recsys:` section, without opening Feast.

        Raises:
            InvalidSettings: the file is missing or the section is wrong.
        """
        from feast_recsys.features.settings import load_settings

        return load_settings(self.folder, self.feature_store_yaml)

    def open(self) -> Repo:
        """The opened repository. Takes seconds: it imports Feast.

        Raises:
            InvalidSettings: the file is missing or the section is wrong.
        """
        self.settings()  # a wrong section is told before Feast is imported
        from feast_recsys.cli.progress import waiting

        with waiting("open the repository"):
            from feast_recsys.features.repo import open_repo

            return open_repo(self.folder, self.feature_store_yaml)


def choose(settings: Settings, name: str | None) -> str:
    """The named recommender, or the only one.

    Raises:
        InvalidSettings: there is none of that name, or several and none was named.
    """
    if name is not None:
        settings.recommender(name)
        return name
    if len(settings.recommenders) > 1:
        known = ", ".join(sorted(settings.recommenders))
        raise InvalidSettings(f"name a recommender with --recommender; there are: {known}", field="recommenders")
    return next(iter(settings.recommenders))
