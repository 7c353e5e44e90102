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

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.adapters import adapter_scales, unreadable_scale
from wsrl.readers.buffers import is_infinite_constant
from wsrl.readers.derived import split_complex
from wsrl.readers.json_files import read_json_object
from wsrl.readers.mapped import read_head
from wsrl.readers.not_weights import explain, explain_folder
from wsrl.readers.packed_weights import unpack_words
from wsrl.readers.parametrized import effective, stored_parts, unknown
from wsrl.readers.quantized import dequantize

# In this order: the readers whose files cannot be mistaken come first. Modules are imported when they are needed.
READERS = {
    "split files": "parts",
    "safetensors": "safetensors",
    "PyTorch distributed": "torch_distributed",
    "PyTorch export": "torch_export",
    "PyTorch": "pytorch",
    "PyTorch legacy": "pytorch_legacy",
    "stable-baselines3": "stable_baselines3",
    "NumPy npz": "npz",
    "sharded": "sharded",
    "TensorFlow.js": "tensorflow_js",
    "Keras": "keras",
    "archive": "containers",
    "TensorFlow": "tensorflow",
    "TensorFlow graph": "tensorflow_graph",
    "GGUF": "gguf",
    "TFLite": "tflite",
    "OpenVINO": "openvino",
    "Core ML": "coreml",
    "Orbax": "orbax",
    "Hugging Face": "huggingface",
    "ONNX": "onnx",
    "Flax msgpack": "flax_msgpack",
}

# Integers of these types are most often codes for weights; longer ones are counters, indices or masks, but for words of
# several codes.
WORDS = ("int32", "uint32", "int16", "uint16")
INDICES = ("int32", "int64", "bool")  # of tensors that a graph may read beside its weights
CODES = ("int8", "uint8", "int4", "uint4", "int2", "uint2", "float4_e2m1fn")
FEW = 64  # entries
WITHOUT_MASKS = ("Keras", "Orbax", "NumPy npz", "Flax msgpack")  # those hold weights alone, and may be compressed
PYTORCH = ("safetensors", "PyTorch", "PyTorch legacy", "sharded", "split files")
EMPTY = 1 / 4  # of the tensors, from which on they tell of ZeRO-3
GATHER = "gather the weights before saving (zero_to_fp32.py, or stage3_gather_16bit_weights_on_model_save)"


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint of any known format; its tensors stay in the file until they are read.

    All tensors of the result are floating point: integers with scales are dequantized when they are read, weights that
    are kept in parts (weight norm, spectral norm, pruning) are put together, complex numbers are two. Other integers,
    booleans (counters, position ids) and constants of infinite entries (masks, bounds) are left out.

    Args:
      path: a file, a folder as Orbax or the Hugging Face hub lays it out, or `hf://owner/name`.

    Returns:
      The checkpoint. Its metadata has `format`, `left_out` (what is in the file but not among the tensors, a tuple of
      names) and `config` where a `config.json` lies beside the file; and where there is something to say
        unread: names of tensors that are most likely weights but not read -> how many numbers they hold.
        adapter_scales: name of an adapted module -> what the product of its low-rank matrices is multiplied by.
        parts: tensors that are put together -> names of their parts in the file -> shapes.
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
        raise CheckpointError(path, f"cannot be read ({error.strerror or one_line(error)})", _fix(error)) from error
    if explained := explain(head) if head else explain_folder(path):
        raise CheckpointError(path, *explained)
    reason = "the folder holds no checkpoint" if not head else "is of no known format"
    raise CheckpointError(path, reason, f"give one of {', '.join(READERS)}")


def _module(name: str):
    return importlib.import_module(f"wsrl.readers.{name}")


def _fix(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "check the path"
        case PermissionError():
            return "allow reading it"
        case _:
            return "check the file and its disk"


def _with_config(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Adds the configurations that lie beside a file or in a folder, of a model and of an adapter."""
    folder = path if path.is_dir() else path.parent
    beside = {name: folder / f"{name}.json" for name in ("config", "adapter_config")}
    missing = {n: file for n, file in beside.items() if not isinstance(checkpoint.metadata.get(n), dict)}
    configs = {name: read_json_object(file) for name, file in missing.items() if file.is_file()}
    return Checkpoint(checkpoint.path, checkpoint.tensors, {**checkpoint.metadata, **configs})


def _finished(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Makes floating-point tensors of what a reader returns, and says what is left out."""
    path, metadata = checkpoint.path, dict(checkpoint.metadata)
    if not isinstance(metadata.get("config"), dict):
        metadata.pop("config", None)  # a text of that name in the file
    lazy = {n: t if isinstance(t, LazyTensor) else LazyTensor.of(t, path, n) for n, t in checkpoint.tensors.items()}
    masked = metadata.get("weights_format", name) not in WITHOUT_MASKS
    constants = [n for n, t in lazy.items() if masked and is_infinite_constant(t)]
    complex_ = [n for n, t in lazy.items() if t.dtype.startswith("complex")]
    lazy |= {n: split_complex(lazy[n]) for n in complex_}
    stored = {n: t for n, t in lazy.items() if n not in constants}
    lazy = effective(stored)
    parts = stored_parts(stored, lazy)
    lazy = unpack_words(lazy, metadata.get("config"))
    tensors, left_out = dequantize(lazy)
    left_out = (*_texts(metadata.get("left_out")), *constants, *left_out)
    unread = {n: lazy[n].size for n in left_out if n in lazy and _holds_codes(lazy[n], "graph" in metadata)}
    if not tensors and not unread:
        names = ", ".join(map(ascii, left_out[:5])) or "nothing"
        raise CheckpointError(path, f"holds no floating-point tensor, only {names}", "give a file with weights")
    empty = [n for n, t in tensors.items() if t.shape == (0,)] if name in PYTORCH else []
    empty = empty if len(empty) >= EMPTY * len(tensors) else []  # a few are states that were never set
    if len(empty) == len(tensors) and not unread:
        raise CheckpointError(path, "all its tensors are empty, as DeepSpeed's ZeRO-3 leaves them", GATHER)
    if sum(unread.values()) > sum(tensor.size for tensor in tensors.values()):
        first = max(unread, key=unread.__getitem__)
        reason = (
            f"most of its numbers are packed in a way that is not known, as tensor {first!a} of {lazy[first].dtype}"
        )
        raise CheckpointError(path, reason, "give the model before it was quantized")
    lines = [*_texts(metadata.pop("warnings", ()))]
    lines += [line for line in [unreadable_scale(metadata.get("adapter_config"))] if line]
    lines += [f"tensor {n!a} is not read: {count:,} numbers of {lazy[n].dtype}" for n, count in unread.items()]
    lines += _line("empty, as DeepSpeed's ZeRO-3 leaves tensors: " + GATHER, empty)
    lines += _line("held by a parametrization that is not known and taken as it is", unknown(tensors))
    lines += _line("complex: real and imaginary parts count as two numbers along a last axis", complex_)
    more = {"warnings": tuple(lines), "unread": unread, "tied": metadata.pop("tied", None), "parts": parts}
    if "graph" in metadata:
        more["integers"] = {n: lazy[n] for n in left_out if n in lazy and lazy[n].dtype in INDICES}
    more["adapter_scales"] = adapter_scales(tensors, metadata.get("adapter_config"))
    metadata |= {key: value for key, value in more.items() if value}
    return Checkpoint(path, tensors, {**metadata, "format": name, "left_out": left_out})


def _holds_codes(tensor: LazyTensor, graph: bool) -> bool:
    """Whether integers are most likely codes for weights; with a graph wide ones are known to be indices."""
    words = tensor.dtype in WORDS and tensor.ndim > 1 and not graph
    return tensor.size > FEW and (words or tensor.dtype in CODES)


def _line(what: str, names: list[str]) -> list[str]:
    """A line that says the same of several tensors, none if there are none."""
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return [f"tensor {names[0]!a}{more}: {what}"] if names else []


def _texts(value: object) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, tuple) else ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads all floating-point tensors of a file into float32 arrays.

    Raises:
      CheckpointError: the file is missing, of no known format, truncated, empty, or holds NaN or Inf.
    """
    checkpoint = open_checkpoint(path)
    # Copies: a view would hold the file open.
    tensors = {name: np.array(tensor, np.float32) for name, tensor in checkpoint.tensors.items()}
    return Checkpoint(checkpoint.path, tensors, checkpoint.metadata)
