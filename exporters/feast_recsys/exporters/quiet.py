"""Keeps the noise of torch's exporter off the terminal, and only that."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

# Loggers that report missing optional packages and exporter internals at WARNING.
_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hides what the exporter says about itself while it runs; errors are raised as always.

    Warnings of the caller's own code stay visible. Standard error is held back as well, because torch prints
    whole graphs there with plain `print` when it fails to trace; the exception says what is wrong.
    """
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx_ir)\b")
        # Raised by torch's own deprecated tree types while they are copied, and attributed to copyreg.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
        try:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
