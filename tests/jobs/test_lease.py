"""One job at a time, and a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from feast_recsys.bundle.errors import JobFailed
from feast_recsys.jobs.lease import hold_lease

HOLD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from feast_recsys.jobs.lease import hold_lease
    with hold_lease(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
    """
)


@pytest.fixture
def other_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_job_learns_who_holds_the_lease(tmp_path, other_process):
    with (
        pytest.raises(JobFailed, match=rf"process {other_process.pid} on {socket.gethostname()}, since \d{{4}}-"),
        hold_lease(tmp_path),
    ):
        pass


def test_the_lease_of_a_killed_job_is_free(tmp_path, other_process):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    with hold_lease(tmp_path):
        pass


def test_a_lease_is_free_after_use_and_after_a_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_lease(tmp_path / "new" / "folder"):
        raise ZeroDivisionError
    with hold_lease(tmp_path / "new" / "folder"):
        pass


def test_one_process_can_not_hold_it_twice(tmp_path):
    with hold_lease(tmp_path), pytest.raises(JobFailed, match=f"process {os.getpid()} on"), hold_lease(tmp_path):
        pass


def test_a_lease_that_was_taken_this_instant_has_no_name_yet(tmp_path, other_process):
    (tmp_path / ".lease").write_text("")
    with pytest.raises(JobFailed, match="a process that has only just begun"), hold_lease(tmp_path):
        pass
