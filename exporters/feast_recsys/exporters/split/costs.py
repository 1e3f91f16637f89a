"""What a choice costs, in nanoseconds for each candidate: rough figures of one core, good enough to compare."""

from __future__ import annotations

from feast_recsys.exporters.split.flops import Work

FLOP = 0.03  # in products, which nearly all operations are
BYTE = 0.1  # gathered from a column that is too large for the caches
LOOKUP = 20.0
KEY = 60.0  # a raw value that the server must gather, and strings convert
NODE = 4.0  # a node's own 2 microseconds, shared by 500 candidates
COLUMN = 6.0  # one more tensor to gather
CACHED = 1 << 20  # bytes of a table whose rows are at hand; a row of a larger one is gathered like a column

# Of the user's side, for each request: the parts run one after another in one process, so that it hardly matters which
# of them computes something. What is handed over is the last that belongs to the user alone.
USER_NODE, USER_TENSOR, USER_BYTE = 2.0, 1.0, 1e-6


def computing(work: Work, *, view: bool = False, table: int = 0, row: int = 0) -> float:
    """Cost of a node in the cross part.

    Args:
        work: What it does for a candidate.
        view: Whether it computes and copies nothing.
        table, row: Bytes of the table that it looks up rows in, and of a row.
    """
    lookup = LOOKUP + (row * BYTE if table > CACHED else 0.0)
    return work.flops * FLOP + work.lookups * lookup + (NODE / 4 if view else NODE)


def keeping(size: int) -> float:
    """Cost of a tensor that the item part hands over, of so many bytes a candidate."""
    return size * BYTE + COLUMN


def worth_keeping(inner: int, outer: int) -> bool:
    """Whether a product's result should be kept with the item, not the `inner` values that it is made of."""
    saved = 2.0 * inner * outer * FLOP
    return saved > 4.0 * max(outer - inner, 0) * BYTE
