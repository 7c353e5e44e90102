"""What names, configurations and cards say of a file that its tensors contradict."""

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

from wsrl.checkpoint import Checkpoint, LazyTensor
from wsrl.origins.key_catalog import CATALOG, find_entry
from wsrl.origins.precision import main_type, precision, type_bits

OFF = 1.5  # factor between a stated and a counted number of parameters, from which on they disagree
COUNT = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", re.IGNORECASE)
UNIT = {"m": 10**6, "b": 10**9}
PRECISIONS = {  # in a name -> bits at most, since a lower precision never is a surprise in a larger type
    r"fp16|float16|f16|half|bf16|bfloat16": 16,
    r"fp8|float8|int8|8bit|w8a8|q8_0": 9,
    r"int4|4bit|nf4|fp4|mxfp4|nvfp4|w4a16|q4_[01k]\w*|awq|gptq": 6,
}
FORMATS = {  # ending of a name -> formats that it stands for
    ".safetensors": ("safetensors", "sharded", "split files"),
    ".onnx": ("ONNX",),
    ".tflite": ("TFLite",),
    ".gguf": ("GGUF",),
    ".npz": ("NumPy npz",),
    ".keras": ("Keras",),
    ".h5": ("Keras",),
    ".mlmodel": ("Core ML",),
    ".msgpack": ("Flax msgpack",),
}
WIDTHS = ("hidden_size", "d_model", "n_embd", "intermediate_size", "d_ff", "vocab_size")  # lengths of axes of tensors
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
TYPES = ("torch_dtype", "dtype")
NUMBERED = re.compile(r"(?:^|[./])(\d+)[./]")


class Disagreement(NamedTuple):
    """Something that is said of a model and is not so.

    Attributes:
      where: it is said, e.g. `its name` or `config.json (vocab_size)`.
      says: what is said.
      found: what the tensors, or models near it, say.
    """

    where: str
    says: str
    found: str


def disagreements(checkpoint: Checkpoint, adapter: bool = False) -> Iterator[Disagreement]:
    """Yields what the name of a checkpoint and its configuration say that its tensors contradict.

    Only what would be wrong under any reading counts: a lower precision in a wider type, a table with more rows than
    the vocabulary, or a name without a number says nothing.

    Args:
      checkpoint: its shapes are read, and a few numbers of its largest tensors.
      adapter: it holds an adapter, whose name and configuration speak of its base.
    """
    tensors: Mapping[str, LazyTensor] = checkpoint.tensors  # pyright: ignore[reportAssignmentType]
    name = _own_name(checkpoint.path)
    yield from _format(checkpoint)
    if adapter:
        return
    yield from _parameters(name, tensors)
    yield from _precision(name, checkpoint, tensors)
    yield from _architecture(name, checkpoint.config, tensors)
    yield from _configured(checkpoint.config, tensors)


def _own_name(path: str) -> str:
    """The name of a file, or of its folder where all files of that kind are called alike."""
    own = Path(path)
    return own.stem if re.search(r"\d", own.stem) or "-" in own.stem else f"{own.parent.name} {own.stem}"


def _format(checkpoint: Checkpoint) -> Iterator[Disagreement]:
    expected = FORMATS.get(Path(checkpoint.path).suffix.lower())
    if expected and checkpoint.format not in expected:
        yield Disagreement("its name", f"a file of {expected[0]}", f"the content is {checkpoint.format}")


def _parameters(name: str, tensors: Mapping[str, LazyTensor]) -> Iterator[Disagreement]:
    told = [int(times or 1) * float(number) * UNIT[unit.lower()] for times, number, unit in COUNT.findall(name)]
    counted = sum(prod(tensor.shape) for tensor in tensors.values())
    if told and counted and not any(1 / OFF <= counted / own <= OFF for own in told):
        yield Disagreement("its name", f"{_short(max(told))} parameters", f"the tensors hold {_short(counted)}")


def _precision(name: str, checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor]) -> Iterator[Disagreement]:
    stored, bits = main_type(tensors), None
    sources = [("its name", name.lower())]
    sources += [(f"config.json ({key})", str(checkpoint.config[key])) for key in TYPES if key in checkpoint.config]
    for where, text in sources:
        for pattern, most in PRECISIONS.items():
            said = re.search(rf"(?<![a-z0-9])({pattern})(?![a-z0-9])", text)
            if said and type_bits(stored) > most:
                bits = precision(tensors) if bits is None else bits
                if bits > most:
                    yield Disagreement(where, said[1], f"most numbers are {stored}, and use {bits:g} bits")


def _architecture(name: str, config: Mapping[str, object], tensors: Mapping[str, LazyTensor]) -> Iterator[Disagreement]:
    entry = find_entry(tensors)
    if entry is None or config.get("model_type"):
        return
    words = set(re.findall(r"[a-z]+", name.lower()))
    own = _words(entry.name)
    others = {e.name for e in CATALOG if len(_words(e.name)) == 1 and _words(e.name) <= words}
    if others and entry.name not in others and not own & words:
        yield Disagreement("its name", " and ".join(sorted(others)), f"tensors are named as those of {entry.name}")


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _configured(config: Mapping[str, object], tensors: Mapping[str, LazyTensor]) -> Iterator[Disagreement]:
    lengths = {length for tensor in tensors.values() if tensor.ndim > 1 for length in tensor.shape}
    for key in WIDTHS:
        said = config.get(key)
        if not isinstance(said, int) or said < 2 or not lengths:
            continue
        longer = key == "vocab_size" and max(lengths) >= said  # tables are padded to a multiple of 64, say
        if said not in lengths and not longer and not any(length % said == 0 for length in lengths):
            yield Disagreement(f"config.json ({key})", f"{said:,}", "no tensor has an axis of that length")
    blocks = [int(number) + 1 for tensor in tensors for number in NUMBERED.findall(tensor)]
    most = max(blocks, default=1)  # of one block, all layers may share the weights
    for key in DEPTHS:
        said = config.get(key)
        if isinstance(said, int) and said > most > 1:
            yield Disagreement(f"config.json ({key})", f"{said:,}", f"tensors are numbered up to {most:,} blocks")


def _short(number: float | int) -> str:
    """A count as names give it: 7B, 350M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 1000)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}"
