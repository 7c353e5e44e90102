"""Mixed search and addition on an index."""

from pathlib import Path


def soak(workdir: Path, index: Path | None, models: int, minutes: float) -> None:
    """Searches an index and adds to it for some minutes."""
    raise NotImplementedError
