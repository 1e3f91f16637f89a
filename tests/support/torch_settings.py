"""What makes PyTorch quick in tests, and changes no result."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: PLC2701 -- there is no public way


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch: with tensors of a few numbers, two threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def operators_read_once() -> Iterator[None]:
    """The exporter's library of operators, parsed from its source once instead of anew for each graph.

    That takes two seconds, more than half of the export of a small graph. The exporter only looks things up in it.
    """
    read = ONNXRegistry.from_torchlib
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(read))
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = read
