"""The naive peer: Feast's own read of user and candidates, `to_dict`, ONNX Runtime with the whole graph.

Written as a good engineer would: one store, one session, services resolved once, columnar entity rows, a registry that
is never read again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.content import BOTH_SIDES, ITEM_SIDE, USER_SIDE
from benchmarks.peers.common import arguments, best_first, serve, session
from feast import FeatureStore

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.signature import Graph, Role, Side, Signature
from feast_recsys.v1 import recommender_service_pb2 as pb


class NaivePeer:
    """Ranks.

    Args:
        configuration: The repository's `feature_store.yaml`.
        model: The exported ranking model.
        calls: 1 to read user and candidates together, 2 to read one after the other.
    """

    def __init__(self, configuration: Path, model: Path, calls: int) -> None:
        self._store = FeatureStore(repo_path=str(configuration.parent), fs_yaml_file=configuration)
        self._calls = calls
        services = (BOTH_SIDES, USER_SIDE, ITEM_SIDE)
        self._both, self._user, self._item = (self._store.get_feature_service(name) for name in services)
        self._graph: Graph = Signature.load(model).graphs[Role.RANKER]
        self._session = session(model / self._graph.file)

    def rank(self, request: pb.RankRequest) -> pb.RankResponse:
        """Answers one request."""
        ids = list(request.item_ids)
        user, items = self._read(int(request.user_id), [int(text) for text in ids])
        feed: dict[str, Array] = {}
        for spec in self._graph.inputs:
            values = user[spec.name][:1] if spec.side is Side.USER else items[spec.name]
            if None in values:
                values = [spec.default if value is None else value for value in values]
            feed[spec.name] = np.array(values, spec.dtype.numpy)
        return best_first(ids, self._session.run([self._graph.output], feed)[0])

    def _read(self, user: int, items: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
        read = self._store.get_online_features
        if self._calls == 1:
            both = read(self._both, {"user_id": [user] * len(items), "item_id": items}).to_dict()
            return both, both
        return read(self._user, [{"user_id": user}]).to_dict(), read(self._item, {"item_id": items}).to_dict()


def main() -> None:
    """Runs the peer."""
    parser = arguments("The naive peer.")
    parser.add_argument("configuration", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calls", type=int, choices=(1, 2), default=2)
    parser.add_argument("--freeze", action="store_true", help="gc.freeze() after start-up")
    options = parser.parse_args()
    peer = NaivePeer(options.configuration, options.model, options.calls)
    serve({"Rank": (peer.rank, pb.RankRequest)}, threads=options.threads, freeze=options.freeze)


if __name__ == "__main__":
    main()
