"""The page of the model families: what they are for, and their hyperparameters from their own configurations."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from feast_recsys.models.content.families import AUDIO, CONTENT
from feast_recsys.models.families.registry import HISTORY_FAMILIES, history_family
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.retrieval.history_models import HistoryOptions
from feast_recsys.models.two_tower.towers import TwoTowerConfig

# In the order in which one looks for one's own case.
PURPOSES = {
    "two_tower": "Features of both sides and the history: two encoders that meet in a dot product. The default.",
    "content": "New items, known by numbers: a network puts them among the factors that usage gave to the others.",
    "audio": "The same from sound files: log-mel, and convolutions over time.",
    "mult_vae": "Histories alone: a variational autoencoder with the multinomial likelihood.",
    "mult_dae": "The same without sampling: a denoising autoencoder.",
    "deep_autoencoder": "Histories with ratings: a deep autoencoder with a masked squared error.",
    "als": "Histories alone: factors by alternating least squares; a user is folded in at each request.",
    "bpr": "Histories alone: factors by pairwise ranking.",
    "ease": "Histories alone, a catalogue of at most some thousands: the linear model in closed form.",
    "item_knn": "Histories alone, a catalogue of at most some thousands: neighbours by cosine.",
    "popularity": "The same list for everybody: what every other model has to beat.",
    "wide_and_deep": "Ranking: crosses of features and a deep tower, both or one; calibrated probabilities.",
}

# A music catalogue: view `track` (entity `track_id`) and the listener's view `listening`.
_CONTENT = """
A music catalogue whose view `track` has descriptors of the sound, and whose view `listening` keeps the latest tracks of
each listener:

```yaml
recsys:
  user: listener
  item: track
  catalogue: track
  interactions:
    path: data/plays.parquet
    timestamp: played_at
  recommenders:
    by_descriptors:
      retrieval:
        family: content
        query: listener_history
        item: track_descriptors
        history: listening:last_track_ids
        hyperparameters: {dimension: 40, threshold: 5, hidden: [256], dropout: 0.3, epochs: 60, bias: 0.1}
      ranking: null
      seen: [listening:last_track_ids]
      title: track:title
```

- `user`, `item`: the Feast entities that ask and are recommended; here their join keys are `listener_id` and
  `track_id`.
- `catalogue`: the feature view whose rows are the tracks there are; one that nobody has played yet is among them.
- `interactions`: `path` names a Parquet file with a row for each play, columns `listener_id`, `track_id` and the moment
  in the column that `timestamp` names.
- `family`: `content` learns factors from the plays, and a network that finds them from the descriptors.
- `query`: a feature service with the listener's side; it needs the history and nothing else.
- `item`: a feature service with what describes a track, such as `track:tempo`, `track:energy` and the list
  `track:timbre`. All of it is input of the network: numbers, and lists of floats.
- `history`: the list feature with a listener's track ids, most recent first: it is the query.
- `hyperparameters`: `dimension` is the width of the factors, `threshold` the plays from which on a track keeps the
  factors of its usage, `hidden` and `dropout` shape the network, `epochs` is how long it learns, and `bias` what
  popularity counts for.
- `ranking`: `null`, there is no second stage.
- `seen`: the features whose tracks Retrieve leaves out.
- `title`: what the command line shows beside the ids.

A listener without known tracks gets the most played ones, whatever `bias` is. A track that nobody has played counts as
popular as the least played one, unless the network predicts popularity (`popularity` above 0). A missing number counts
as the median of its feature, and zero is a value; where all of the content is lists, nothing but zeros means that a
track has none.
"""

_AUDIO = """
The same catalogue by the sound itself: `track:path` holds the path of each track's file, and null where there is none.

```yaml
recsys:
  user: listener
  item: track
  catalogue: track
  interactions:
    path: data/plays.parquet
    timestamp: played_at
  recommenders:
    by_sound:
      retrieval:
        family: audio
        query: listener_history
        item: track_sound
        history: listening:last_track_ids
        audio: track:path
        hyperparameters: {rate: 22050, mels: 128, frames: 599, windows: 3, threshold: 5, epochs: 60, bias: 0.1}
      ranking: null
      seen: [listening:last_track_ids]
      title: track:title
```

What differs from [`content`](#content):

- `family`: `audio` learns the network from log-mel spectrograms, a random stretch of each track in each epoch.
- `item`: a feature service that has the path, `track:path`.
- `audio`: the feature with the path of the sound file (ogg, flac, wav or mp3), relative to the Feast repository.
- `hyperparameters`: `rate` is that of the resampled sound, `mels` the number of its bands, `frames` what the network
  hears at once (here 28 s), `windows` over how many such stretches a track's vector is averaged; the others are as
  above.

The time of `materialize` grows with `frames` and `windows`; smaller `widths` and `dense` shorten training as well. It
reads the file of a track that is new or whose path has changed, and all of them after an export or with `--full`; but
never those of tracks that keep the factors of their usage.
"""

_COMMANDS = """
```sh
feast-recsys train --recommender {name}
feast-recsys export --recommender {name}
feast-recsys materialize
feast-recsys serve &
feast-recsys retrieve --recommender {name} --like 4711
```

`materialize` runs the network for every track that has fewer plays than `threshold`. So `--like` finds what sounds like
track 4711 even if nobody has played it, and with `--user` in its place a listener gets such tracks, too.
"""

EXAMPLES = {
    "content": _CONTENT + _COMMANDS.format(name="by_descriptors"),
    "audio": _AUDIO + _COMMANDS.format(name="by_sound"),
}


def models_page() -> str:
    """The whole page."""
    parts = [
        "# Models\n",
        "Generated by `python docs/generate.py` from the configurations in `feast_recsys.models`.\n",
        "`family` in a recommender's `retrieval` or `ranking` section says what `feast-recsys train` trains, "
        "`hyperparameters` what of it is to differ from the defaults. All retrieval families are served alike: a query "
        "encoder in ONNX, and a matrix of item vectors.\n",
        "```yaml\nretrieval:\n  family: mult_vae\n  query: shop_query\n  history: customer_history:product_ids\n"
        "  hyperparameters: {latent: 100, history_length: 200}\n```\n",
        "| family | for |\n|---|---|",
        *(f"| [`{name}`](#{name}) | {purpose} |" for name, purpose in PURPOSES.items()),
        "",
    ]
    for name in PURPOSES:
        parts.append(f"## {name}\n\n{PURPOSES[name]}\n\n{_table(_configurations(name))}\n{EXAMPLES.get(name, '')}")
    return "\n".join(parts)


def _configurations(name: str) -> tuple[type[Any], ...]:
    if name in HISTORY_FAMILIES:
        return history_family(name).config, HistoryOptions
    special = {"two_tower": TwoTowerConfig, "wide_and_deep": WideDeepConfig, "content": CONTENT, "audio": AUDIO}
    found = special[name]
    return found if isinstance(found, tuple) else (found,)


def _table(configurations: tuple[type[Any], ...]) -> str:
    rows = ["| hyperparameter | default | meaning |\n|---|---|---|"]
    for configuration in configurations:
        texts: dict[str, str] = {}
        for kind in reversed(configuration.__mro__):
            texts |= _attributes(kind.__doc__ or "")
        for field in dataclasses.fields(configuration):
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]  # one of the two is there
            shown = list(default) if isinstance(default, tuple) else default
            rows.append(f"| `{field.name}` | `{shown}` | {texts.get(field.name, '')} |")
    return "\n".join(rows) if len(rows) > 1 else "It has none."


def _attributes(text: str) -> dict[str, str]:
    """What a docstring says of each attribute; those that share a line share its text."""
    _, _, body = text.partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in body.splitlines():
        begin = re.match(r"^ {8}(\w+(?:, \w+)*): (.*)$", line)
        if begin:
            names = begin.group(1).split(", ")
            found |= dict.fromkeys(names, begin.group(2))
        elif line.strip() and line.startswith(" " * 12):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
