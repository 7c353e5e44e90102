"""Reads checkpoints that are split over several files: a JSON index says which tensor lies in which file.

The layout of `model.safetensors.index.json` and `pytorch_model.bin.index.json`:
{"metadata": {"total_size": 123}, "weight_map": {"layer.weight": "model-00001-of-00002.safetensors"}}.
"""

from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers import keras_shards, pytorch, pytorch_legacy, safetensors
from wsrl.readers.json_files import read_json_object
from wsrl.readers.mapped import read_head


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is a JSON object with a `weight_map`."""
    return head.lstrip()[:1] == b"{" and b'"weight_map"' in head and not keras_shards.is_index(head)


def open_file(path: Path) -> Checkpoint:
    """Opens all files that an index names; its folder must hold them.

    Raises:
      CheckpointError: the index is not well-formed, names a file outside its folder, or a tensor is not in its file.
    """
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(path, "its weight_map names no tensor", "write or download it again")
    files = {name: _checked_file(file, path) for name, file in weight_map.items()}
    shards = {file: open_shard(path.parent, file, path) for file in dict.fromkeys(files.values())}
    tensors = {}
    for name, file in files.items():
        if name not in shards[file].tensors:
            raise CheckpointError(path, f"its file {file!r} lacks tensor {name!a}", "download all of its files again")
        tensors[name] = shards[file].tensors[name]
    left_out = [name for shard in shards.values() for name in shard.tensors if name not in tensors]
    return Checkpoint(str(path), tensors, {"left_out": tuple(left_out)})


def _checked_file(name: object, index: Path) -> str:
    if isinstance(name, str) and name.isprintable() and name not in (".", "..", "") and not set(name) & set("/\\"):
        return name
    reason = f"names the file {name!a:.80}, which is not in its folder"
    raise CheckpointError(index, reason, "download the checkpoint from a source that you trust")


def open_shard(folder: Path, name: str, index: Path | None = None) -> Checkpoint:
    """Opens a part of a model.

    Args:
      folder, name: where it lies.
      index: for messages, if there is one.

    Raises:
      CheckpointError: it cannot be read, or is neither safetensors nor PyTorch.
    """
    shard, index = folder / name, index or folder
    try:
        head = read_head(shard)
    except OSError as error:
        reason = f"its file {name!r} cannot be read ({error.strerror})"
        raise CheckpointError(index, reason, "download all of its files") from error
    for reader in (safetensors, pytorch, pytorch_legacy):
        if reader.matches(head, shard):
            return reader.open_file(shard)
    raise CheckpointError(shard, "is neither safetensors nor PyTorch", "download it again")
