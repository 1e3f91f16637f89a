from __future__ import annotations

import sys
from pathlib import Path

# `benchmarks` is no part of the installed package.
sys.path.append(str(Path(__file__).resolve().parents[2]))
