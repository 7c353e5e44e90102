"""The files that hold the weights of a model."""

import os
from fnmatch import fnmatch
from pathlib import Path

from wsrl.readers.json_files import read_json_object
from wsrl.signature.digest import content_digest

BESIDE = (".data", "_data")  # behind the name of an ONNX file: its weights


def weight_files(path: str) -> list[str]:
    """Returns the files that would have to go with a model, those that are named first; none for an address of the hub.

    Of a folder these are all files below it, of an index of split files the index and its parts.
    """
    if path.startswith("hf://"):
        return []
    if os.path.isdir(path):
        return sorted(str(below) for below in Path(path).rglob("*") if below.is_file())
    if fnmatch(path, "*.index.json"):
        parts = read_json_object(Path(path)).get("weight_map")
        names = {str(name) for name in parts.values()} if isinstance(parts, dict) else set()
        inside = (name for name in sorted(names) if os.path.basename(name) == name)
        return [path, *(own for own in (os.path.join(os.path.dirname(path), name) for name in inside) if _is_file(own))]
    return [path, *(path + end for end in BESIDE if _is_file(path + end))]


def bytes_digest(path: str, known: str) -> str:
    """Returns a digest of all bytes of a model, given that of the file or folder that is named."""
    beside = [] if os.path.isdir(path) else weight_files(path)[1:]
    return " ".join([known, *map(content_digest, beside)])


def _is_file(path: str) -> bool:
    return os.path.isfile(path)
