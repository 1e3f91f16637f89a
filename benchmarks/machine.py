"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.processes import ROOT

LIBRARIES = ("feast-recsys", "feast", "grpcio", "protobuf", "onnxruntime", "numpy", "redis", "torch")


def machine() -> dict[str, Any]:
    """Facts: processor, how fast it multiplies, versions, commit, load at the start."""
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "gflops": gflops(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain")),
    }


def gflops() -> float:
    """Best rate of a matrix product of the size of the ranker's first layer, 500 candidates, float32."""
    left, right = np.ones((500, 170), np.float32), np.ones((170, 256), np.float32)
    best = float("inf")
    for _ in range(50):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * 500 * 170 * 256 / best / 1e9


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*arguments: str) -> str:
    """What git says; nothing outside a checkout."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
