"""Where an encoder lies on disk, what shape it has and what it is called by; needs no JAX."""

import hashlib
import json
from pathlib import Path
from typing import Any

from wsrl.errors import InputError

PRETRAINED = Path(__file__).parent / "pretrained"  # the encoder of the package
SHAPE, PARAMETERS = "encoder.json", "encoder.safetensors"


def read_shape(directory: Path) -> dict[str, Any]:
    """Returns the fields of an encoder.

    Raises:
      InputError: there is no `encoder.json`, or it is not readable.
    """
    try:
        shape = json.loads((directory / SHAPE).read_bytes())
        if not isinstance(shape, dict) or not isinstance(shape.get("dim"), int):
            raise ValueError(f"no dim in {SHAPE}")
    except (OSError, ValueError) as error:
        raise InputError(directory, f"holds no readable encoder ({error})", "train it again") from error
    return shape


def file_hash(directory: Path) -> str:
    """Returns the SHA-256 of the two files of an encoder.

    Raises:
      InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in (SHAPE, PARAMETERS):
            digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
    except OSError as error:
        raise InputError(directory, f"holds no readable encoder ({error})", "train it again") from error
    return digest.hexdigest()
