"""What the client commands share: their options, the channel, and a server's errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from feast_recsys.bundle.errors import RecsysError
from feast_recsys.cli.location import Location

if TYPE_CHECKING:
    from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub


@dataclass(frozen=True)
class Call:
    """The options of every client command. `top_k` 0 and an empty `recommender` leave the choice to the settings."""

    user: str
    recommender: str | None
    top_k: int
    context: tuple[str, ...]
    bundle_id: str
    address: str | None
    timeout: float
    as_json: bool


@dataclass(frozen=True)
class Eligibility:
    """The options of the commands that search the catalogue."""

    condition: str | None
    exclude: tuple[str, ...]
    exclude_seen: bool | None
    source: tuple[str, ...]


@dataclass(frozen=True)
class Reranking:
    """The options of the commands that rank. None and empty leave the choice to the settings."""

    relevance_weight: float | None
    cap: tuple[str, ...]
    pin: tuple[str, ...]
    block: tuple[str, ...]


INT32 = click.IntRange(0, 2**31 - 1)
"""A number of items, as the wire can carry it."""

_USER = click.option("-u", "--user", required=True, metavar="ID", help="Who asks.")
_NO_USER = click.option("-u", "--user", default="", metavar="ID", help="Who asks.  [needed without --like]")
_CALL = (
    click.option("-r", "--recommender", metavar="NAME", help="Which recommender.  [default: the only one]"),
    click.option(
        "-k",
        "--top-k",
        type=INT32,
        default=0,
        help="How many items.  [default: as the settings say; of `rank`, all candidates]",
    ),
    click.option(
        "--context", multiple=True, metavar="NAME=JSON", help="Request-time value, such as hour=20; may be repeated."
    ),
    click.option("--bundle-id", default="", metavar="ID", help="Answer from this bundle.  [default: the current one]"),
    click.option("--address", metavar="HOST:PORT", help="Where the server is.  [default: the settings']"),
    click.option("--timeout", default=5.0, show_default=True, metavar="SECONDS", help="Deadline of the call."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)
_FILTER_EXAMPLE = '{"type": "gte", "key": "item_profile:release_year", "value": 1990}'
_ELIGIBILITY = (
    click.option(
        "--filter",
        "condition",
        metavar="JSON",
        help=f"Only items that pass, as Feast writes filters: {_FILTER_EXAMPLE}.",
    ),
    click.option("-x", "--exclude", multiple=True, metavar="ID", help="Leave out an item; may be repeated."),
    click.option("--exclude-seen/--include-seen", default=None, help="What the user saw.  [default: the settings']"),
    click.option(
        "--source", multiple=True, metavar="NAME", help="Take candidates from it; may be repeated.  [default: all]"
    ),
)
_RERANKING = (
    click.option(
        "--relevance-weight",
        type=click.FloatRange(0.0, 1.0),
        metavar="WEIGHT",
        help="Of the probability against likeness to items placed before: 1 by probability, less is more diverse.",
    ),
    click.option(
        "--cap",
        multiple=True,
        metavar="VIEW:FEATURE=N",
        help="At most N items with the same value of an item feature; may be repeated.",
    ),
    click.option("--pin", multiple=True, metavar="ID", help="Put an item first; may be repeated, in order."),
    click.option(
        "--block",
        multiple=True,
        metavar="ID",
        help="Leave out an item; may be repeated. Each of --relevance-weight, --cap, --pin and --block replaces the "
        "settings' `reranking`, but for what that blocks.",
    ),
)


def call_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of Call and passes them as `call`."""
    return _options(command, (_USER, *_CALL), "call", Call)


def item_call_options(command: Callable[..., None]) -> Callable[..., None]:
    """As `call_options`, for a command that may be about items alone."""
    return _options(command, (_NO_USER, *_CALL), "call", Call)


def eligibility_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of Eligibility and passes them as `eligibility`."""
    return _options(command, _ELIGIBILITY, "eligibility", Eligibility)


def reranking_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of Reranking and passes them as `reranking`."""
    return _options(command, _RERANKING, "reranking", Reranking)


def _options(command: Callable[..., None], options: tuple[Any, ...], name: str, kind: Any) -> Callable[..., None]:
    @functools.wraps(command)
    def collect(*args: Any, **values: Any) -> None:
        taken = {field.name: values.pop(field.name) for field in fields(kind)}
        command(*args, **{name: kind(**taken)}, **values)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), collect)


@contextmanager
def connect(location: Location, call: Call) -> Iterator[RecommenderServiceStub]:
    """A stub for the server of this repository; its errors come out as RecsysError."""
    import grpc
    from grpc_status import rpc_status

    from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

    target = call.address or location.settings().serving.address
    with grpc.insecure_channel(target) as channel:
        try:
            yield RecommenderServiceStub(channel)
        except grpc.RpcError as error:
            call_of_error: Any = error  # what a stub raises is an RpcError and a Call
            raise _from_wire(error, rpc_status.from_call(call_of_error), target) from error


class ServerError(RecsysError):
    """Raised when a server answers with an error; the message begins with the server's reason."""

    reason = "SERVER_ERROR"


def _from_wire(error: Any, status: Any, target: str) -> ServerError:
    from google.rpc import error_details_pb2

    code, message = error.code().name, error.details()
    if status is None and code == "UNAVAILABLE":
        return ServerError(f"no server answers at {target}; start one with `feast-recsys serve` ({message})")
    reason = code
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
    return ServerError(f"{reason}: {message}")
