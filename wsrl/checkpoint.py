"""Reads a checkpoint file into named arrays, without running any code of the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from wsrl.errors import InputError


class CheckpointError(InputError):
    """A checkpoint that cannot be used: names the file, the reason and the mend."""


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and the metadata that came with them.

    Attributes:
      path: where the tensors were read from; used in messages only.
      tensors: name -> array of any shape, floating point.
      metadata: what the file or its manifest says beside the weights, e.g. `activation`, `strides`.
    """

    path: str
    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, object]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a safetensors file; floating-point tensors come back as float32.

    Raises:
      CheckpointError: the file is missing, not safetensors, truncated, empty, or holds NaN or Inf.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(path, "no such file", "check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        reason = f"not a readable safetensors file ({error})"
        raise CheckpointError(path, reason, "write or download it again") from error
    tensors = {name: t.astype(np.float32) for name, t in tensors.items() if np.issubdtype(t.dtype, np.floating)}
    if not tensors:
        raise CheckpointError(path, "holds no floating-point tensor", "give a file with weights")
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(path, f"tensor {name!r} holds NaN or Inf", "retrain the model or leave it out")
    return Checkpoint(str(path), tensors, metadata)
