"""A checkpoint: named tensors that are read when they are asked for, and what the file says beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from wsrl.errors import InputError


class CheckpointError(InputError):
    """A checkpoint that cannot be used: names the file, the reason and the fix."""


def one_line(error: Exception) -> str:
    """What an error of a library says, fit for the reason of a CheckpointError: one line of 200 characters at most."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def unexpected(source: str | Path, error: Exception) -> CheckpointError:
    """Returns an error that names the checkpoint with which something went wrong that nobody thought of."""
    wrapped = CheckpointError(
        source,
        f"cannot be used ({type(error).__name__}: {one_line(error)})",
        "leave it out and report this error; `wsrl --debug` before the command shows its origin",
    )
    wrapped.__cause__ = error
    return wrapped


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that stays in its file until it is read.

    Attributes:
      shape: of the tensor.
      dtype: as stored, e.g. `float16`, `bfloat16`, `int8`, `q4_0`.
      read_rows: (start, stop) -> rows of the first axis as they are stored or as float32; a tensor without axes has one
        row. Takes no more memory than a small multiple of these rows where the format allows.
      path, name: for messages.
    """

    shape: tuple[int, ...]
    dtype: str
    read_rows: Callable[[int, int], np.ndarray]
    path: str
    name: str

    @classmethod
    def of(cls, array: np.ndarray, path: str | Path, name: str) -> "LazyTensor":
        """Wraps an array, mapped or in memory, of any numeric type."""
        return cls(array.shape, array.dtype.name, partial(_rows, array), str(path), name)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def num_rows(self) -> int:
        """Number of rows; a tensor without axes has one."""
        return self.shape[0] if self.shape else 1

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "..."]:
        """Reads rows start to stop of the first axis as float32.

        Raises:
          CheckpointError: they hold NaN or Inf, or cannot be read.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(self.read_rows(start, stop)).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            reason = f"tensor {self.name!r} holds NaN or Inf"
            raise CheckpointError(self.path, reason, "retrain the model or leave it out")
        return values

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        values = self.rows(0, self.num_rows).reshape(self.shape)
        if copy and not values.flags.writeable:  # a view of the file
            values = values.copy()
        return values if dtype is None else values.astype(dtype, copy=False)


def _rows(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    return (array if array.ndim else array.reshape(1))[start:stop]


Tensor = LazyTensor | np.ndarray
T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and the metadata that came with them.

    Attributes:
      path: where the tensors were read from; used in messages only.
      tensors: name -> tensor; `np.asarray` reads a lazy one as float32.
      metadata: what the file, its folder or its manifest says beside the weights, e.g. `activation`, `strides`. The
        properties below read what readers put there; files may hold anything under these names.
    """

    path: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, object]

    def _told(self, key: str, kind: type[T], default: T) -> T:
        value = self.metadata.get(key)
        return value if isinstance(value, kind) else default

    @property
    def format(self) -> str:
        """Name of the file's format."""
        return self._told("format", str, "unknown format")

    @property
    def config(self) -> dict[str, object]:
        """The `config.json` of a folder as the Hugging Face hub lays it out; empty if there is none."""
        return self._told("config", dict, {})

    @property
    def keras_config(self) -> dict[str, object]:
        """The configuration of a Keras model; empty if there is none."""
        return self._told("keras_config", dict, {})

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not as usual when the file was opened, a sentence each."""
        return tuple(map(str, self._told("warnings", tuple, ())))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of what the file holds that is no weight."""
        return tuple(map(str, self._told("left_out", tuple, ())))

    @property
    def unread(self) -> dict[str, int]:
        """Tensors that are most likely weights in a packing that is not known -> entries."""
        return self._told("unread", dict, {})

    @property
    def integers(self) -> dict[str, Tensor]:
        """Tensors of integers that are no weights, where the file has a graph that may read them."""
        return self._told("integers", dict, {})

    @property
    def parts(self) -> dict[str, Any]:
        """Tensors that are put together from stored ones; see `wsrl.wiring.stored_names`."""
        return self._told("parts", dict, {})

    @property
    def adapter_scales(self) -> dict[str, float]:
        """Module -> factor of the product of an adapter's two matrices."""
        return self._told("adapter_scales", dict, {})
