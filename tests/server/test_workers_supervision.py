"""What the supervisor does with children that end, without a server in them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Runs in a fresh interpreter: a supervisor takes over the signals of its process. `work` is put in.
SUPERVISOR = """
import json, logging, os, signal, sys
from pathlib import Path
from feast_recsys.bundle.errors import RecsysError
from feast_recsys.features.serving_settings import Serving
from feast_recsys.server import supervisor
from feast_recsys.server.exposition import read_folder
from feast_recsys.server.supervisor import LISTENING

folder = Path(sys.argv[1])
logging.basicConfig(level="INFO", format="%(processName)s %(message)s")
supervisor.FIRST_PAUSE = 0.01

def attempts(name):
    with (folder / "attempts").open("a") as file:
        file.write(name + "\\n")
    return (folder / "attempts").read_text().split().count(name)

{work}

def listening():
    print("listening", flush=True)

watched = supervisor.Supervisor(Serving(workers=2, drain_seconds=0.1), folder / "bundles", folder, None, listening)
watched.start()
try:
    print("run:", watched.run(work))
except RecsysError as error:
    print(error.reason, error.field, error.message)
finally:
    counts = {{entry.name: entry.values[0] for entry in read_folder(folder)}}
    watched.close()
print("restarts:", counts["feast_recsys_worker_restarts"], "workers:", counts["feast_recsys_workers"])
"""


def supervise(tmp_path: Path, work: str) -> tuple[list[str], str]:
    """Lines of standard output, and the log."""
    folder = tmp_path / "shared"
    folder.mkdir()
    script = SUPERVISOR.format(work=textwrap.dedent(work))
    result = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert not folder.exists()
    return result.stdout.splitlines(), result.stderr


@pytest.mark.parametrize(
    ("death", "told"),
    [("os._exit(3)", "ended with exit code 3"), ("os.kill(os.getpid(), signal.SIGABRT)", "was killed by SIGABRT")],
)
def test_workers_that_die_before_they_ever_listen_end_the_server(tmp_path, death, told):
    out, log = supervise(tmp_path, f"def work(seat, report, life):\n    {death}\n")
    assert out[0].startswith("INTERNAL")
    assert told in out[0]
    assert "listening" not in out
    assert log.count(told) >= 2


def test_an_exception_of_a_worker_is_in_the_log_by_its_name(tmp_path):
    out, log = supervise(tmp_path, "def work(seat, report, life):\n    raise ValueError(f'{seat.name} is broken')\n")
    assert "ended with exit code 1" in out[0]
    assert "worker-1 worker-1 failed" in log
    assert "ValueError: worker-1 is broken" in log


def test_a_worker_that_can_not_listen_says_why(tmp_path):
    work = """
    def work(seat, report, life):
        os.write(report, json.dumps(["the port is gone", "recsys.serving.address"]).encode())
    """
    out, _ = supervise(tmp_path, work)
    assert out[0] == "INVALID_SETTINGS recsys.serving.address the port is gone"


def test_a_worker_that_dies_at_first_gets_another_chance_and_all_are_waited_for(tmp_path):
    work = """
    def work(seat, report, life):
        life.begin(heed_sigterm=True)
        if seat.name == "worker-2" and attempts(seat.name) < 3:
            os._exit(1)
        os.write(report, LISTENING)
        os.close(report)
        if seat.name == "worker-2":
            os.kill(os.getppid(), signal.SIGTERM)
        life.over()
    """
    out, log = supervise(tmp_path, work)
    assert out == ["listening", "run: None", "restarts: 2.0 workers: 0.0"]
    assert log.count("worker-2 ended with exit code 1") == 2
    assert "worker-1 ended" not in log


def test_once_it_listened_the_server_never_gives_up_on_a_worker(tmp_path):
    work = """
    def work(seat, report, life):
        life.begin(heed_sigterm=True)
        os.write(report, LISTENING)
        os.close(report)
        if seat.name == "worker-2":
            if attempts(seat.name) == 6:
                os.kill(os.getppid(), signal.SIGTERM)
            else:
                life.over(0.05)
                os._exit(1)
        life.over()
    """
    out, _ = supervise(tmp_path, work)
    assert out == ["listening", "run: None", "restarts: 5.0 workers: 0.0"]


def test_a_signal_that_comes_before_a_worker_is_ready_for_it_is_not_lost(tmp_path):
    work = """
    def work(seat, report, life):
        os.write(report, LISTENING)
        os.close(report)
        if seat.name == "worker-2":
            os.kill(os.getppid(), signal.SIGTERM)
        import time
        time.sleep(0.3)
        life.begin(heed_sigterm=True)
        assert life.over(20)
    """
    out, log = supervise(tmp_path, work)
    assert "run: None" in out
    assert "failed" not in log


def test_a_worker_that_does_not_drain_is_killed_in_the_end(tmp_path):
    work = """
    supervisor.OVERDUE_SECONDS = 2.0
    def work(seat, report, life):
        life.begin(heed_sigterm=True)
        os.write(report, LISTENING)
        if seat.name == "worker-2":
            os.kill(os.getppid(), signal.SIGTERM)
            life.over()
        else:
            while True:
                life.over(1)
    """
    out, log = supervise(tmp_path, work)
    assert "run: None" in out
    assert "worker-1 does not end; it is killed" in log
