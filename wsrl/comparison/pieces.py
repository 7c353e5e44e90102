"""The tensors of a checkpoint in one form, whatever its format: units that are written, units that are read, the rest.

A piece is a tensor as [written, read, taps]: the rows of a dense layer, the words that an embedding reads, the places
of a kernel. Its neuron groups come from the layers of a known family where it is one, else from the inferred wiring.
Here a group that is not proven does no harm: all that is concluded from it is tested.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod

import numpy as np
from jaxtyping import Float32, Int

from wsrl.canonical.norms import find_folds
from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.program.read import read_program
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.wiring import Wiring

BLOCKS = 16  # stretches of neighboring units that a sample is made of
BLOCK = 2**23  # entries read at a time
MOST_AXES = 4  # longer than 1 of a tensor whose axes are tried in other places
RUNNABLE_SIZE = 2**24  # entries up to which it is tried whether a network can be run
ROLES = {"gain": "gain", "shift": "bias", "mean": "mean", "variance": "variance"}


@dataclass(frozen=True)
class Units:
    """What one side of a piece holds: outer x size x inner entries, of which the middle are the units of a group.

    Attributes:
      group: its name; None where the order of the entries is taken as it is.
      fixed: the order has a meaning: pixels, words, classes.
    """

    group: str | None
    outer: int
    size: int
    inner: int
    fixed: bool

    @property
    def length(self) -> int:
        """Entries."""
        return self.outer * self.size * self.inner


@dataclass(frozen=True)
class Piece:
    """A tensor as [written, read, taps].

    Attributes:
      name: of the tensor.
      tensor: in its file.
      axes: which of its axes are written, read, neither.
      written, read: units of the first two.
      role: of a norm's or a layer's vector: `bias`, `gain`, `mean` or `variance`; else None.
      gain: of the batch norm that alone reads what the piece writes, if there is one.
      known: whether it is known which axes are written and read; else the order in the file is taken for it.
    """

    name: str
    tensor: LazyTensor
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    written: Units
    read: Units
    role: str | None = None
    gain: LazyTensor | None = None
    known: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the piece."""
        written, read, taps = (prod(self.tensor.shape[i] for i in own) for own in self.axes)
        return written, read, taps

    @property
    def is_matrix(self) -> bool:
        """Whether it is more than a vector."""
        return sum(n > 1 for n in self.shape) > 1

    def sides(self) -> tuple[Units, Units]:
        """Written and read units."""
        return self.written, self.read

    def whole(self) -> Float32[np.ndarray, "written read taps"]:
        """Reads all of it. Raises CheckpointError where it cannot be read, or holds NaN or Inf."""
        return self._form(read_whole(self.tensor))

    def signed(self) -> Float32[np.ndarray, "written read taps"]:
        """Reads all of it, with the signs that the gain of a batch norm gives to the units."""
        values = self.whole()
        if self.gain is None or self.gain.size != len(values):
            return values
        negative = read_whole(self.gain).ravel() < 0
        return values * np.where(negative, -1, 1).astype(np.float32)[:, None, None] if negative.any() else values

    def stored(self, values: Float32[np.ndarray, "written read taps"]) -> Float32[np.ndarray, "..."]:
        """Brings an array of the piece's shape into the layout of its file."""
        order = [axis for own in self.axes for axis in own]
        return values.reshape([self.tensor.shape[axis] for axis in order]).transpose(np.argsort(order))

    def rows(self, start: int, stop: int) -> Float32[np.ndarray, "written read taps"]:
        """Reads some units of the side that is the first axis of the tensor."""
        return self._form(self.tensor.rows(start, stop))

    def taken(self, side: int, places: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "written read taps"]:
        """Reads some entries of one side (0: written, 1: read), signed as `signed`; a part at a time where that can be.

        Raises:
          CheckpointError: it cannot be read, or holds NaN or Inf.
        """
        if self.axes[side] == (0,):
            held, order = np.unique(places, return_inverse=True)
            values = self._form(_read_rows(self.tensor, held)).take(order, axis=side)
        elif self.axes[1 - side] == (0,):
            step = max(BLOCK * self.tensor.shape[0] // self.tensor.size, 1)
            starts = range(0, self.tensor.shape[0], step)
            rows = (self.tensor.rows(start, min(start + step, self.tensor.shape[0])) for start in starts)
            values = np.concatenate([self._form(own).take(places, axis=side) for own in rows], axis=1 - side)
        else:
            values = self.whole().take(places, axis=side)
        if self.gain is None or self.gain.size != self.shape[0]:
            return values
        signs = np.where(read_whole(self.gain).ravel() < 0, -1, 1).astype(np.float32)
        return values * (signs if side else signs[places])[:, None, None]

    def sample(self, most: int) -> Float32[np.ndarray, "written read taps"]:
        """Reads at most `most` units of either side, and as many taps; which, depends on the shape alone."""
        written, read, taps = (spread(n, most) for n in self.shape)
        first = written if self.axes[0] == (0,) else read if self.axes[1] == (0,) else None
        if first is None:
            return self.whole()[np.ix_(written, read, taps)]
        values = self._form(_read_rows(self.tensor, first))
        return values[:, read][..., taps] if first is written else values[written][..., taps]

    def turned(self, shape: tuple[int, int, int]) -> Iterator["Piece"]:
        """Yields the piece with its axes in other places, so that it has this shape; what units it holds is not known.

        Files of some formats do not say which axis is which.
        """
        long = [i for i, n in enumerate(self.tensor.shape) if n > 1]
        for order in permutations(long) if len(long) <= MOST_AXES else ():
            for sides in _divisions(order, [self.tensor.shape[i] for i in order], shape):
                if sides != tuple(tuple(i for i in own if i in long) for own in self.axes):
                    short = tuple(i for i in range(self.tensor.ndim) if i not in long)
                    written, read = (Units(None, 1, n, 1, False) for n in shape[:2])
                    yield replace(self, axes=(*sides[:2], sides[2] + short), written=written, read=read)

    def _form(self, values: np.ndarray) -> Float32[np.ndarray, "written read taps"]:
        order = [axis for own in self.axes for axis in own]
        lengths = [prod(values.shape[axis] for axis in own) for own in self.axes]
        return values.transpose(order).reshape(lengths)


def _divisions(
    order: tuple[int, ...], lengths: list[int], shape: tuple[int, int, int]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Yields how axes in some order fall into three sides of given lengths."""
    for first in range(len(order) + 1):
        for second in range(first, len(order) + 1):
            parts = lengths[:first], lengths[first:second], lengths[second:]
            if tuple(map(prod, parts)) == shape:
                yield order[:first], order[first:second], order[second:]


def first_side(pieces: Sequence[Piece]) -> int:
    """Returns the side (0: written, 1: read) whose units the files of several pieces hold one after the other."""
    return int(all(piece.axes[1] == (0,) for piece in pieces))


def blocks(pieces: Sequence[Piece]) -> Iterator[tuple[Float32[np.ndarray, "units others taps"], ...]]:
    """Yields the same entries of several pieces of one shape, few enough for memory where the formats allow.

    Units are those of `first_side`, others those of the other side.
    """
    side = first_side(pieces)
    order = (side, 1 - side, 2)
    if any(piece.axes[side] != (0,) for piece in pieces):
        yield tuple(piece.whole().transpose(order) for piece in pieces)
        return
    units = pieces[0].shape[side]
    step = max(BLOCK * units // max(pieces[0].tensor.size * len(pieces), 1), 1)
    for start in range(0, units, step):
        yield tuple(piece.rows(start, min(start + step, units)).transpose(order) for piece in pieces)


def spread(length: int, most: int) -> Int[np.ndarray, "n"]:
    """Returns at most `most` places out of `length`, in stretches of neighbors over all of it."""
    if length <= most:
        return np.arange(length)
    starts = np.linspace(0, length - most // BLOCKS, BLOCKS).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(most // BLOCKS))


def _read_rows(tensor: LazyTensor, places: Int[np.ndarray, "n"]) -> np.ndarray:
    """Reads rows of the first axis, neighbors together."""
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return np.concatenate([tensor.rows(int(run[0]), int(run[-1]) + 1) for run in runs])


def cut(checkpoint: Checkpoint) -> tuple[Piece, ...]:
    """Returns the pieces of a checkpoint in the order in which data flows through them.

    Raises:
      CheckpointError: the wiring cannot be inferred at all.
    """
    layout = _layout(_wiring(checkpoint))
    tensors = _in_order(checkpoint, layout)
    return tuple(_piece(name, tensors, layout) for name in tensors)


@dataclass(frozen=True)
class _Layout:
    """Which axes of a tensor are written and read, in the order of data flow; what they hold; the fixed groups.

    `roles` are those of vectors, `gains` the tensors of batch norms by the weights before them.
    """

    sides: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    axes: Mapping[str, Sequence]
    fixed: frozenset[str]
    roles: Mapping[str, str]
    gains: Mapping[str, str]


def _wiring(checkpoint: Checkpoint) -> Wiring:
    """The wiring of the network, with the groups that its program shows where it can be run."""
    if sum(tensor.size for tensor in checkpoint.tensors.values()) <= RUNNABLE_SIZE:
        with suppress(CheckpointError):
            return read_program(checkpoint).wiring
    return infer_wiring(checkpoint)


def _layout(wiring: Wiring) -> _Layout:
    sides: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    roles: dict[str, str] = {}
    for operation in wiring.operations:
        weights_first = sorted(operation.tensors.items(), key=lambda own: len(wiring.axes[own[1]]) < 2)
        for role, name in weights_first:  # whatever their order in the file
            if role in ROLES or "bias" in role:
                roles[name] = ROLES.get(role, "bias")
            written = operation.axes_of(name, operation.writes)
            read = tuple(axis for axis in operation.axes_of(name, operation.reads) if axis not in written)
            sides.setdefault(name, (written, read))
    axes = {
        name: [None if a is None else [(s.group, s.outer, s.size, s.inner) for s in a] for a in own]
        for name, own in wiring.axes.items()
    }
    fixed = frozenset(name for name, group in wiring.groups.items() if not group.permutable)
    gains = {fold.weight: fold.fields["gain"] for fold in find_folds(wiring) if "gain" in fold.fields}
    return _Layout(sides, axes, fixed, roles, gains)


def _in_order(checkpoint: Checkpoint, layout: _Layout) -> dict[str, LazyTensor]:
    names = [name for name in layout.sides if name in checkpoint.tensors]
    names += [name for name in checkpoint.tensors if name not in layout.sides]
    tensors = {name: checkpoint.tensors[name] for name in names}
    lazy = {n: t if isinstance(t, LazyTensor) else LazyTensor.of(t, checkpoint.path, n) for n, t in tensors.items()}
    return {name: tensor for name, tensor in lazy.items() if tensor.size}


def _piece(name: str, tensors: Mapping[str, LazyTensor], layout: _Layout) -> Piece:
    tensor = tensors[name]
    written, read = layout.sides.get(name, ((), ()))
    free = [i for i in range(tensor.ndim) if i not in (*written, *read)]
    free.sort(key=lambda i: tensor.shape[i] == 1)  # an axis of length 1 tells nothing
    if not written and free:
        written = (free.pop(0),)
        if not read and free:
            read = (free.pop(0),)
    axes = (written, read, tuple(free))
    own = layout.axes.get(name, [None] * tensor.ndim)
    gain = tensors.get(layout.gains.get(name, ""))
    writes, reads = (_units(tensor, own, side, layout) for side in (written, read))
    return Piece(name, tensor, axes, writes, reads, layout.roles.get(name), gain, any(layout.sides.get(name, ())))


def _units(tensor: LazyTensor, axes: Sequence, own: tuple[int, ...], layout: _Layout) -> Units:
    """The units along some axes together; axes without a group, as those of a head's entries, are theirs."""
    length = prod(tensor.shape[i] for i in own)
    held = [i for i in own if axes[i] is not None]
    if len(held) != 1 or len(axes[held[0]]) != 1 or axes[held[0]][0][0] is None:
        segments = [s for i in held for s in axes[i]]
        fixed = any(s[0] in layout.fixed for s in segments)
        return Units(None, 1, length, 1, fixed)
    at = own.index(held[0])
    group, outer, size, inner = axes[held[0]][0]
    before, after = (prod(tensor.shape[i] for i in part) for part in (own[:at], own[at + 1 :]))
    if group in layout.fixed:
        return Units(None, 1, length, 1, True)
    return Units(group, before * outer, size, inner * after, False)
