"""Readers of checkpoint formats, one module each; none runs code of a file.

A reader module has two functions:

    matches(head: bytes, path: Path) -> bool
        Tells the format by content. `head` is the first 4,096 bytes of a file, empty for a folder. May look deeper (the
        members of an archive, the entries of a folder) and raise CheckpointError.
    open_file(path: Path) -> Checkpoint
        Opens the file or folder. Its tensors may be of any numeric type, integers too: what is made of those is
        decided here, for all formats alike. Raises CheckpointError; an OSError is turned into one here.

`huggingface` also has `open_uri(uri: str) -> Checkpoint` for `hf://owner/name`.
"""

import importlib
from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.json_files import read_json_object
from wsrl.readers.mapped import read_head
from wsrl.readers.quantized import dequantize

# In this order: the readers whose files cannot be mistaken come first. Modules are imported when they are needed.
READERS = {
    "safetensors": "safetensors",
    "PyTorch": "pytorch",
    "PyTorch legacy": "pytorch_legacy",
    "stable-baselines3": "stable_baselines3",
    "NumPy npz": "npz",
    "sharded": "sharded",
    "Keras": "keras",
    "GGUF": "gguf",
    "TFLite": "tflite",
    "Orbax": "orbax",
    "Hugging Face": "huggingface",
    "ONNX": "onnx",
    "Flax msgpack": "flax_msgpack",
}

# Integers of these types are most often codes for weights; longer ones are counters, indices or masks.
CODES = ("int8", "uint8", "int4", "uint4", "int2", "uint2", "float4_e2m1fn")
FEW = 64  # entries


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint of any known format; its tensors stay in the file until they are read.

    All tensors of the result are floating point: integers with scales are dequantized when they are read, other
    integers and booleans (counters, position ids) are left out.

    Args:
      path: a file, a folder as Orbax or the Hugging Face hub lays it out, or `hf://owner/name`.

    Returns:
      The checkpoint. Its metadata has `format`, `left_out` (what is in the file but not among the tensors, a tuple of
      names) and `config` where a `config.json` lies beside the file; and where there is something to say
        unread: names of tensors that are most likely weights but not read -> how many numbers they hold.
        tied: names that are not among the tensors -> name of the tensor with the same storage.
        warnings: a tuple of sentences.

    Raises:
      CheckpointError: the file is missing, of no known format, broken, holds no floating-point tensor, or most of its
        weights are not read.
    """
    try:
        if str(path).startswith("hf://"):
            return _finished(_module("huggingface").open_uri(str(path)), "Hugging Face")
        path = Path(path)
        head = read_head(path)
        for name, module in READERS.items():
            reader = _module(module)
            if reader.matches(head, path):
                return _finished(_with_config(reader.open_file(path), path), name)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or one_line(error)})", _mend(error)) from error
    reason = "the folder holds no checkpoint" if not head else "is of no known format"
    raise CheckpointError(path, reason, f"give one of {', '.join(READERS)}")


def _module(name: str):
    return importlib.import_module(f"wsrl.readers.{name}")


def _mend(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "check the path"
        case PermissionError():
            return "allow reading it"
        case _:
            return "check the file and its disk"


def _with_config(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    config = path.parent / "config.json"
    if path.is_dir() or isinstance(checkpoint.metadata.get("config"), dict) or not config.is_file():
        return checkpoint
    metadata = {**checkpoint.metadata, "config": read_json_object(config)}
    return Checkpoint(checkpoint.path, checkpoint.tensors, metadata)


def _finished(checkpoint: Checkpoint, name: str) -> Checkpoint:
    path, metadata = checkpoint.path, dict(checkpoint.metadata)
    if not isinstance(metadata.get("config"), dict):
        metadata.pop("config", None)  # a text of that name in the file
    lazy = {n: t if isinstance(t, LazyTensor) else LazyTensor.of(t, path, n) for n, t in checkpoint.tensors.items()}
    tensors, left_out = dequantize(lazy)
    unread = {n: lazy[n].size for n in left_out if lazy[n].dtype in CODES and lazy[n].size > FEW}
    told = metadata.get("left_out", ())
    left_out = (*(told if isinstance(told, tuple) else ()), *left_out)
    if not tensors and not unread:
        names = ", ".join(map(ascii, left_out[:5])) or "nothing"
        raise CheckpointError(path, f"holds no floating-point tensor, only {names}", "give a file with weights")
    if sum(unread.values()) > sum(tensor.size for tensor in tensors.values()):
        first = max(unread, key=unread.__getitem__)
        reason = (
            f"most of its numbers are packed in a way that is not known, as tensor {first!a} of {lazy[first].dtype}"
        )
        raise CheckpointError(path, reason, "give the model before it was quantized")
    warnings = metadata.pop("warnings", ())
    lines = [f"tensor {n!a} is not read: {count:,} numbers of {lazy[n].dtype}" for n, count in unread.items()]
    if lines := (*(warnings if isinstance(warnings, tuple) else ()), *lines):
        metadata["warnings"] = lines
    if unread:
        metadata["unread"] = unread
    if not metadata.get("tied"):
        metadata.pop("tied", None)
    return Checkpoint(path, tensors, {**metadata, "format": name, "left_out": left_out})
