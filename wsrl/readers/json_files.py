"""Reads JSON objects that come with checkpoints: headers, indices, configurations."""

import json
from pathlib import Path

from wsrl.checkpoint import CheckpointError, one_line

MEND = "write or download it again"
LIMIT = 16 << 20  # bytes; Python objects take up to some twenty times as much


def parse_json_object(text: bytes, path: Path, what: str) -> dict[str, object]:
    """Parses a JSON object in UTF-8.

    Args:
      text: at most LIMIT bytes.
      path, what: for messages, e.g. the file and "its header".

    Raises:
      CheckpointError: the text is too long, no JSON object, or repeats a key.
    """
    if len(text) > LIMIT:
        raise CheckpointError(path, f"{what} has {len(text)} bytes of JSON, more than {LIMIT}", MEND)
    try:
        value = json.loads(str(text, "utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"{what} is not valid JSON ({one_line(error)})", MEND) from error
    if not isinstance(value, dict):
        raise CheckpointError(path, f"{what} is not a JSON object", MEND)
    return value


def read_json_object(path: Path) -> dict[str, object]:
    """Reads a file that holds one JSON object, e.g. a `config.json`.

    Raises:
      CheckpointError: see parse_json_object.
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size > LIMIT:
            raise CheckpointError(path, f"has {size} bytes of JSON, more than {LIMIT}", MEND)
        file.seek(0)
        return parse_json_object(file.read(), path, "the file")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key occurs twice")
    return result
