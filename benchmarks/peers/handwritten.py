"""The hand-written fast path: items in two matrices, one `online_read` for the user, the whole graph, no generality.

No unknown items, no nulls, no duplicates, no overrides, no other bundle, no store that fails, no metrics.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from benchmarks.content import ITEM_FEATURES, ITEM_VIEW, USER_FEATURES, USER_VIEW
from benchmarks.peers.common import arguments, best_first, serve, session
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.signature import Role, Signature
from feast_recsys.bundle.snapshot import open_snapshot
from feast_recsys.bundle.store import SNAPSHOT_FOLDER
from feast_recsys.v1 import recommender_service_pb2 as pb

CATEGORIES, NUMBERS = ([f.name for f in ITEM_FEATURES if bool(f.keys) is known] for known in (True, False))
USER = [(f.name, "int64_val" if f.keys else "float_val", np.int64 if f.keys else np.float32) for f in USER_FEATURES]


class UserRead:
    """One `online_read` of one user.

    Args:
        configuration: The repository's `feature_store.yaml`.
        features: What to read.
    """

    def __init__(self, configuration: Path, features: list[str]) -> None:
        store = FeatureStore(repo_path=str(configuration.parent), fs_yaml_file=configuration)
        view = store.get_feature_view(USER_VIEW)
        self._config, self._read = store.config, store.provider.online_store.online_read
        self._view, self._features = view, features

    def __call__(self, user: str) -> dict[str, Value]:
        """The stored values by name."""
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=int(user))])
        [(_, row)] = self._read(self._config, self._view, [key], list(self._features))
        return row or {}


class HandWritten:
    """Ranks.

    Args:
        configuration: The repository's `feature_store.yaml`.
        model: The exported ranking model.
        bundle: Where the items come from.
    """

    def __init__(self, configuration: Path, model: Path, bundle: Path) -> None:
        snapshot = open_snapshot(bundle / SNAPSHOT_FOLDER)
        self._rows = {str(key): row for row, key in enumerate(snapshot.ids.tolist())}
        self._categories = np.stack([snapshot.column(f"{ITEM_VIEW}:{name}").values for name in CATEGORIES])
        self._numbers = np.stack([snapshot.column(f"{ITEM_VIEW}:{name}").values for name in NUMBERS])
        self._user = UserRead(configuration, [f.name for f in USER_FEATURES])
        graph = Signature.load(model).graphs[Role.RANKER]
        self._session, self._outputs = session(model / graph.file), [graph.output]

    def rank(self, request: pb.RankRequest) -> pb.RankResponse:
        """Answers one request."""
        ids = list(request.item_ids)
        rows = [self._rows[text] for text in ids]
        row = self._user(request.user_id)
        feed: dict[str, Array] = {name: np.array([getattr(row[name], member)], dtype) for name, member, dtype in USER}
        feed |= zip(CATEGORIES, self._categories[:, rows], strict=True)
        feed |= zip(NUMBERS, self._numbers[:, rows], strict=True)
        return best_first(ids, self._session.run(self._outputs, feed)[0])


def main() -> None:
    """Runs the peer."""
    parser = arguments("The hand-written fast path.")
    parser.add_argument("configuration", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("bundle", type=Path)
    options = parser.parse_args()
    peer = HandWritten(options.configuration, options.model, options.bundle)
    serve({"Rank": (peer.rank, pb.RankRequest)}, threads=options.threads, freeze=True)


if __name__ == "__main__":
    main()
