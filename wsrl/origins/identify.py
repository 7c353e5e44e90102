"""What an unknown file holds: which architecture, and whether as weights, a difference of weights, or an adapter."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Checkpoint, LazyTensor
from wsrl.origins.adapter_base import Candidate, adapted_modules, adapter_kind, find_bases, scaled_modules
from wsrl.origins.key_catalog import Entry, find_entry, neutral
from wsrl.origins.precision import is_widened, main_type, precision
from wsrl.readers import open_checkpoint
from wsrl.readers.declared import Declared, declared_bases

UNKNOWN = "unknown"
SMALLEST_GAIN = 0.2  # mean of the gains of a trained norm, which start at 1; those of a difference lie at 0
GAIN = re.compile(r"(norm|ln|bn)[\w.]*[./](weight|scale|gamma)$|[./](ln_\d|bn\d|norm\d?)[./]weight$", re.IGNORECASE)
GAINS = 16  # that are looked at
OPTIMIZER = re.compile(r"exp_avg(_sq)?$|momentum_buffer$|(^|[./])optimizer(_state)?s?[./]|[./]slots?[./]")
AVERAGED = re.compile(r"(^|[./_])(model_)?ema([._/]|$)|(^|[./])(ema_model|averaged_model|shadow)([./]|$)")
NAMES_OF_BLOCK = 0.5  # share of tensors from which a name tells of all


@dataclass(frozen=True)
class Identity:
    """What a file holds.

    Attributes:
      path: of the file.
      format: that it is written in.
      content: `weights`, `delta` (to be added to other weights), `adapter`, `optimizer state` or `unknown`.
      adapter: kind of the adapter, `LoRA`, `DoRA`, `LoHa`, `LoKr` or `IA3`; empty if it is none.
      architecture, library: see `wsrl.origins.key_catalog`; `unknown` if no entry fits and no configuration tells.
      size: usual name of its size, else its width and number of blocks; empty if not known.
      parameters: numbers in the file.
      stored: type of most numbers, and the bits in which they are known.
      widened: whether float32 numbers all are bfloat16 numbers.
      averaged: whether it is, or also holds, a moving average of weights.
      declared: base models that the files name.
      candidates: models of an index that an adapter fits, or nothing if there are none or no index was given.
      reasons: what the answer rests on, a sentence each.
    """

    path: str
    format: str
    content: str
    adapter: str
    architecture: str
    library: str
    size: str
    parameters: int
    stored: tuple[str, float]
    widened: bool
    averaged: bool
    declared: tuple[Declared, ...]
    candidates: tuple[Candidate, ...]
    reasons: tuple[str, ...]


def identify(path: str | Path, index: str | Path | None = None) -> Identity:
    """Says what a file holds, from the names and shapes of its tensors and a few of their numbers.

    Args:
      path: of a checkpoint.
      index: folder of an index that may hold the base of an adapter.

    Raises:
      CheckpointError: the file cannot be used.
      InputError: the index cannot be used.
    """
    checkpoint = open_checkpoint(path)
    tensors: Mapping[str, LazyTensor] = checkpoint.tensors  # pyright: ignore[reportAssignmentType]
    adapter, modules = adapter_kind(tensors), adapted_modules(tensors)
    content, why = _content(checkpoint, adapter)
    entry = find_entry([*tensors, *modules, *scaled_modules(tensors)])
    architecture, library, told = _architecture(checkpoint, entry)
    widened = is_widened(tensors)
    if widened:
        why.append("the low 16 bits of its float32 numbers are 0: they are bfloat16 numbers")
    left_out = checkpoint.metadata.get("left_out", ())
    return Identity(
        path=str(path),
        format=checkpoint.format,
        content=content,
        adapter=adapter,
        architecture=architecture,
        library=library,
        size=_size(entry, tensors) if entry else "",
        parameters=sum(tensor.size for tensor in tensors.values()),
        stored=(main_type(tensors), precision(tensors)),
        widened=widened,
        averaged=any(AVERAGED.search(name) for name in [*tensors, *(left_out if isinstance(left_out, tuple) else ())]),
        declared=tuple(declared_bases(checkpoint.metadata, str(path))),
        candidates=tuple(find_bases(Path(index), modules)) if index is not None else (),
        reasons=tuple([*told, *why]),
    )


def _content(checkpoint: Checkpoint, adapter: str) -> tuple[str, list[str]]:
    names = list(checkpoint.tensors)
    if adapter:
        return "adapter", [f"its tensors are named as those of {adapter}"]
    states = sum(bool(OPTIMIZER.search(name)) for name in names)
    if states > NAMES_OF_BLOCK * len(names):
        return "optimizer state", [f"{states:,} of {len(names):,} tensors are named as moments of an optimizer"]
    gains = list(_gains(checkpoint.tensors))  # pyright: ignore[reportArgumentType]
    if gains:
        mean = float(np.median(np.abs(np.array(gains))))
        what = f"gains of norms have a median of {mean:.2g}"
        return ("delta", [f"{what}: those of weights lie near 1"]) if mean < SMALLEST_GAIN else ("weights", [what])
    return (UNKNOWN if not names else "weights"), ["it has no norms that would tell a difference of weights"]


def _gains(tensors: Mapping[str, LazyTensor]) -> Iterator[float]:
    named = [name for name, tensor in tensors.items() if tensor.ndim == 1 and GAIN.search(name)]
    for name in named[:GAINS]:
        yield float(read_whole(tensors[name]).mean())


def _architecture(checkpoint: Checkpoint, entry: Entry | None) -> tuple[str, str, list[str]]:
    told = checkpoint.config.get("model_type") or checkpoint.config.get("_class_name")
    if isinstance(told, str) and told:
        library = entry.library if entry else UNKNOWN
        return told, library, ["config.json names the architecture"]
    if entry is None:
        return UNKNOWN, UNKNOWN, ["no known architecture names its tensors so"]
    return entry.name, entry.library, [f"tensors are named as those of {entry.name} ({entry.library})"]


def _size(entry: Entry, tensors: Mapping[str, LazyTensor]) -> str:
    blocks = _blocks(entry, tensors)
    width = None
    if entry.width is not None:
        end, axis = entry.width
        found = [t.shape for name, t in tensors.items() if f".{neutral(name)}".endswith(f".{end}")]
        width = found[0][axis] if found and len(found[0]) > axis else None
    named = entry.sizes.get((width, blocks)) or entry.sizes.get((width, None)) if width else None
    counted = ", ".join([*([f"width {width:,}"] if width else []), *([f"{blocks} blocks"] if blocks else [])])
    return named or counted


def _blocks(entry: Entry, tensors: Mapping[str, LazyTensor]) -> int | None:
    """How many blocks of a kind there are, by the first key that counts them."""
    key = next((key for key in entry.keys if ".0." in key), None)
    if key is None:
        return None
    before, _, after = key.partition(".0.")
    pattern = re.compile(rf"(?:^|\.){re.escape(before)}\.(\d+)\.{re.escape(after)}$")
    numbers = {match[1] for name in tensors if (match := pattern.search(neutral(name)))}
    return len(numbers) or None
