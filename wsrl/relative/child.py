"""What a child changes of its base: matrix by matrix, from an adapter or from a whole fine-tuned model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.comparison.pairing import Sampled, pair_up
from wsrl.comparison.pieces import cut
from wsrl.relative.adapters import MAGNITUDES, find_adapted
from wsrl.relative.base import Base, module_name
from wsrl.relative.change import Change, Dense

SAVED = (".modules_to_save.default", ".original_module")  # of PEFT, in the names of layers that are trained whole
MOST_CLASSES = 4096  # rows of a matrix that is taken for a head
SHARE = 0.5  # of a child's entries that have to be in matrices of the base
COPIES = 0.5  # cosine from which matrices of other names are taken for the same layer


@dataclass(frozen=True)
class Child:
    """What a child changes.

    Attributes:
      changes: by the name of the base's module.
      heads: matrices [classes, features] that the base does not have in that shape.
    """

    changes: Mapping[str, Change]
    heads: tuple[Float32[np.ndarray, "_classes _features"], ...]


def read_child(checkpoint: Checkpoint, base: Base) -> Child:
    """Finds what a child changes of its base.

    Args:
      checkpoint: an adapter, with or without whole layers beside it, or a whole model.
      base: of it.

    Raises:
      CheckpointError: it does not fit the base, or is an adapter of another kind.
    """
    tensors = {name: _lazy(t, checkpoint.path, name) for name, t in checkpoint.tensors.items()}
    adapted = find_adapted(tensors, checkpoint.adapter_scales)
    changes: dict[str, Change] = {}
    for own in adapted:
        found = base.find(own.module)
        if found is None:
            raise _unfit(checkpoint, f"its module {own.module!a} is none of the base")
        try:
            changes[found] = own.change(base.matrices[found])
        except CheckpointError:
            raise
        except ValueError as error:
            raise _unfit(checkpoint, f"its module {own.module!a} {error}") from None
    used = {name for own in adapted for name in own.names}
    whole = {name: t for name, t in tensors.items() if name not in used and _is_matrix(name, t)}
    if not adapted and not whole:
        raise _unfit(checkpoint, "it holds no matrix")
    changed, rest = _by_name(whole, base)
    if not adapted and sum(t.size for t in rest.values()) > (1 - SHARE) * sum(t.size for t in whole.values()):
        changed = dict(_by_value(checkpoint, base)) if _could_fit(whole, base) else {}
        if sum(own.base.tensor.size for own in changed.values()) < SHARE * sum(t.size for t in whole.values()):
            raise _unfit(checkpoint, "fewer than half of its numbers are in matrices that the base has in that shape")
        taken = {own.child.name for own in changed.values()}
        rest = {name: t for name, t in whole.items() if name not in taken}
    heads = [t for t in rest.values() if t.ndim == 2 and 2 <= t.shape[0] <= MOST_CLASSES]
    return Child({**changed, **changes}, tuple(read_whole(t) for t in heads))


def _lazy(tensor: LazyTensor | np.ndarray, path: str, name: str) -> LazyTensor:
    return tensor if isinstance(tensor, LazyTensor) else LazyTensor.of(tensor, path, name)


def _unfit(checkpoint: Checkpoint, reason: str) -> CheckpointError:
    return CheckpointError(checkpoint.path, f"does not fit the base: {reason}", "leave it out or name its own base")


def _is_matrix(name: str, tensor: LazyTensor) -> bool:
    own = sum(n > 1 for n in tensor.shape) > 1
    return own and not name.endswith(MAGNITUDES) and SAVED[1] not in name


def _by_name(tensors: Mapping[str, LazyTensor], base: Base) -> tuple[dict[str, Dense], dict[str, LazyTensor]]:
    """Matrices that the base has under the same name and in the same shape, and the others."""
    found: dict[str, Dense] = {}
    rest: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        module = base.find(name.replace(SAVED[0], ""))
        piece = base.matrices.get(module or "")
        if module is None or piece is None or piece.tensor.shape != tensor.shape or module in found:
            rest[name] = tensor
        else:
            found[module] = Dense(replace(piece, name=name, tensor=tensor, gain=None), piece)
    return found, rest


def _could_fit(tensors: Mapping[str, LazyTensor], base: Base) -> bool:
    """Whether enough of the entries are in matrices with axes as long as those of one of the base, which is cheap."""
    lengths = {_lengths(piece.tensor) for piece in base.matrices.values()}
    fitting = sum(tensor.size for tensor in tensors.values() if _lengths(tensor) in lengths)
    return fitting >= SHARE * sum(tensor.size for tensor in tensors.values())


def _lengths(tensor: LazyTensor) -> tuple[int, ...]:
    return tuple(sorted(n for n in tensor.shape if n > 1))


def _by_value(checkpoint: Checkpoint, base: Base) -> Iterator[tuple[str, Dense]]:
    """Matrices of a file with other names, or of another format, that are nearly those of the base."""
    for pair in pair_up(base.sampled(), Sampled.of(cut(checkpoint))):
        if pair.a and pair.b and pair.a.is_matrix and pair.cosine > COPIES and pair.a.shape == pair.b.shape:
            yield module_name(pair.a.name), Dense(pair.b, pair.a)
