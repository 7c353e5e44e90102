"""Reads the parts of a split model where the index that says which tensor lies in which part is missing.

Parts are called NAME-00001-of-00004.safetensors, as transformers writes them.
"""

import re
from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers.huggingface import weight_files
from wsrl.readers.sharded import open_shard

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")  # GGUF's parts are read by its own reader


def matches(head: bytes, path: Path) -> bool:
    """Whether a file is named as one of several parts, or a folder has such files, no index and no other weights."""
    if head:
        match = PART.fullmatch(path.name)
        return match is not None and int(match[3]) > 1
    return path.is_dir() and bool(_parts(path)) and not weight_files(path)


def open_file(path: Path) -> Checkpoint:
    """Opens all parts in a folder.

    Raises:
      CheckpointError: the path is a single part; parts are missing, are of several models, or repeat a tensor.
    """
    if not path.is_dir():
        match = PART.fullmatch(path.name)
        number, count = (int(match[2]), int(match[3])) if match else (1, 1)
        raise CheckpointError(path, f"is part {number} of {count} of a model", "give its index or its folder")
    parts = _parts(path)
    names = sorted({(stem, count, ending) for stem, _, count, ending in parts})
    stem, count, ending = names[0]
    if len(names) > 1:
        raise CheckpointError(path, "holds parts of several models", "move each to a folder of its own")
    there = {int(number) for _, number, _, _ in parts}
    if missing := sorted(set(range(1, int(count) + 1)) - there)[:5]:
        reason = f"lacks part {missing[0]} of {int(count)} of {stem!r}, and the index"
        raise CheckpointError(path, reason, "download all of its files")
    tensors, left_out = {}, []
    for number in sorted(there):
        shard = open_shard(path, f"{stem}-{number:05}-of-{count}.{ending}")
        if repeated := sorted(tensors.keys() & shard.tensors.keys())[:1]:
            raise CheckpointError(path, f"tensor {repeated[0]!a} lies in several parts", "download its files again")
        tensors |= shard.tensors
        left_out += shard.left_out
    warning = f"the index of {int(count)} parts is missing; their tensors are taken together"
    return Checkpoint(str(path), tensors, {"left_out": tuple(left_out), "warnings": (warning,)})


def _parts(folder: Path) -> list[tuple[str, str, str, str]]:
    """Stem, number, how many there are, and ending of each part."""
    matches = (PART.fullmatch(entry.name) for entry in folder.iterdir())
    return [(m[1], m[2], m[3], m[4]) for m in matches if m and int(m[3]) > 1]
