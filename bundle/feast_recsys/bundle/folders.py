"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_folder(draft: Path, folder: Path) -> None:
    """Renames the draft to the folder, whose old content, if any, goes; it is back where that fails.

    Raises:
        OSError: the draft can't be renamed.
    """
    if not folder.exists():
        draft.rename(folder)
        return
    old = draft.with_name(f"{draft.name}.old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
