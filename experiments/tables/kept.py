"""What a table has measured so far, from which an interrupted run goes on."""

import json
from pathlib import Path
from typing import Any


def read_kept(path: Path, settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Reads what was measured of these settings; nothing if the file is missing, damaged or of other settings.

    Args:
      path: of the JSON file, which the caller writes.
      settings: JSON values that what is measured depends on.
      name: of what is measured.

    Returns:
      {"settings": settings, name: what was measured, by key}.
    """
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError):
        state = {}
    return state if state.get("settings") == settings else {"settings": settings, name: {}}
