"""What happens before workers are forked: imports, threads, the port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.serving_settings import Serving
from feast_recsys.server.imports import limit_threads
from feast_recsys.server.ports import HeldPort

# Runs in a fresh interpreter.
IMPORTS = """
import gc, sys, typeguard
checked = typeguard.typechecked
from feast_recsys.server.imports import quickly
assert "feast" not in sys.modules
with quickly():
    from feast_recsys.features.repo import open_repo
    assert not gc.isenabled()
assert "feast" in sys.modules
assert "torch" not in sys.modules
assert typeguard.typechecked is checked
assert gc.isenabled()
import torch
torch.zeros(1)
"""


def test_feast_is_imported_without_torch_which_others_may_import_later():
    result = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("workers", "set_before", "threads"), [(1, None, None), (2, None, "1"), (2, "4", "4"), (1, "4", "4")]
)
def test_several_workers_get_one_thread_each_unless_the_user_says_otherwise(monkeypatch, workers, set_before, threads):
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        # Set first, so that what the function sets is taken back.
        monkeypatch.setenv(name, set_before or "")
        if set_before is None:
            monkeypatch.delenv(name)
    limit_threads(Serving(workers=workers))
    assert [os.environ.get(name) for name in names] == [threads] * 3


HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]"]


def sharing(family: int) -> socket.socket:
    """A socket as gRPC makes one for `grpc.so_reuseport`."""
    made = socket.socket(family, socket.SOCK_STREAM)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    return made


@pytest.mark.parametrize("host", HOSTS)
def test_a_held_port_is_the_workers_alone(host):
    if "::" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    held = HeldPort(f"{host}:0")
    held.take()
    name, _, port = held.address.rpartition(":")
    assert name == host
    bare = name.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    with sharing(family) as first, sharing(family) as second:
        for worker in (first, second):
            worker.bind((bare, int(port)))
            worker.listen()
        with pytest.raises(InvalidSettings, match=f"can't listen on '.*{port}'"):
            HeldPort(held.address).take()
        held.close()  # those that listen keep it
        with pytest.raises(InvalidSettings):
            HeldPort(held.address).take()
    again = HeldPort(held.address)
    again.take()
    again.close()


@pytest.mark.parametrize(
    "address", ["", "6570", ":6570", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:-1", "unix:/tmp/x"]
)
def test_what_is_no_address_is_told(address):
    with pytest.raises(InvalidSettings) as raised:
        HeldPort(address).take()
    assert raised.value.field == "recsys.serving.address"
    assert repr(address) in raised.value.message
