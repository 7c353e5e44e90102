"""Writes files so that an interruption leaves either the old content or the new."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes under another name in the same folder, flushes to disk and renames; makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
