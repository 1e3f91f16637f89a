"""The `serving:` section: how the server answers, and the most that it may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from feast_recsys.features.reranking_settings import Reranking

Positive = Annotated[int, Field(gt=0)]


class Serving(BaseModel):
    """How the server answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    address: str = "127.0.0.1:6570"
    """Host and port to listen on; port 0 takes a free one."""
    metrics_address: str | None = None
    """Host and port of the Prometheus endpoint; None for none."""
    store_policy: Literal["degrade", "fail"] = "degrade"
    """What happens when the online store is down or slow: defaults and a reason in the reply, or UNAVAILABLE."""
    store_timeout_ms: Positive = 200
    """How long one read of the online store may take."""
    stale: Mapping[str, Literal["serve", "default", "fail"]] = {}
    """Policy per feature view for values older than the view's ttl. Feast's own is `serve`."""
    workers: Positive = 1
    """Processes that answer; they share the port and the bundle's files. One for each core that is the server's."""
    threads: Positive = 8
    """Calls that one worker answers at the same time."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where ONNX Runtime runs query encoders and rankers; `cuda` needs `onnxruntime-gpu`."""
    batch_candidates: Annotated[int, Field(ge=0)] | None = None
    """Most candidates of several callers in one run of a split ranker; 0 runs each call alone. None is 8192 on `cuda`
    and 0 on `cpu`, where batches don't pay."""
    max_top_k: Positive = 1000
    """Largest `top_k` of Retrieve and Recommend, and most pinned items."""
    max_candidates: Positive = 2000
    """Most candidates of one Rank, and largest `candidate_count` and `top_k` of Recommend."""
    max_exclusions: Positive = 10_000
    """Most `exclude_item_ids` of one request, and most blocked items."""
    max_batch: Positive = 64
    """Most users of one BatchRetrieve."""
    filter_cache_mib: Annotated[int, Field(ge=0)] = 128
    """MiB in which one worker keeps what lately used filters let pass, for each bundle that it holds; 0 keeps
    nothing."""
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    """How often the server looks for a new bundle."""
    refresh_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How often the read plans are compiled anew."""
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long running calls may take after SIGTERM."""


def check_limits(name: str, candidates: int, reranking: Reranking, serving: Serving) -> None:
    """Refuses what a recommender gives where a request says nothing, if no request could ask for it.

    Args:
        name: Of the recommender.
        candidates: Its number of candidates.
        reranking: How it arranges them.
        serving: The limits.

    Raises:
        PydanticCustomError: names the setting, the limit and the remedy.
    """
    for setting, size, limit, most in (
        ("candidates", candidates, "max_top_k", serving.max_top_k),
        ("candidates", candidates, "max_candidates", serving.max_candidates),
        ("the number of pinned_item_ids", len(reranking.pinned_item_ids), "max_top_k", serving.max_top_k),
        ("the number of blocked_item_ids", len(reranking.blocked_item_ids), "max_exclusions", serving.max_exclusions),
    ):
        if size > most:
            raise PydanticCustomError(
                "limit",
                "{setting} of recommender {name} is {size}, above the {most} of `serving.{limit}`; lower it, or raise "
                "the limit",
                {"name": name, "setting": setting, "size": size, "most": most, "limit": limit},
            )
