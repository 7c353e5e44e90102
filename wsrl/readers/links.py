"""Tells symbolic links that lead out of a model's folder."""

from pathlib import Path


def is_beside(path: Path, file: Path) -> bool:
    """Whether a path, all links followed, lies in the folder of `file`.

    In the hub's cache every file of a model is a link into one folder; then what is in that folder is beside it too.

    Raises:
      OSError: one of them does not exist.
    """
    homes = (file.parent.resolve(strict=True), file.resolve(strict=True).parent)
    return any(path.resolve(strict=True).is_relative_to(home) for home in homes)
