"""The base of a model tree: its matrices by name, and directions that changes of each are measured along."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.pairing import Sampled
from wsrl.comparison.pieces import Piece, cut
from wsrl.origins.adapter_base import name_in_base
from wsrl.relative.change import matrix_rows
from wsrl.wiring.tree import natural

SEPARATORS = re.compile(r"[./]")
ENDS = re.compile(r"[._](weight|kernel|w)$")
SPARE = 8  # random vectors beside those that are asked for; Halko, Martinsson and Tropp 2011, section 4.2
PASSES = 2  # over a matrix, after the first, that sharpen its directions


@dataclass(frozen=True)
class Directions:
    """Fixed directions on both sides of a matrix of the base.

    Attributes:
      left, right: with orthonormal columns.
      squares: sum of the squares of all entries of the matrix.
    """

    left: Float64[np.ndarray, "outputs p"]
    right: Float64[np.ndarray, "inputs p"]
    squares: float


class Base:
    """A base, opened once for all of its children.

    Args:
      checkpoint: of the base; its tensors stay in the file.

    Attributes:
      checkpoint: the same.
      matrices: pieces that are more than a vector, by the names of their modules, in natural order.

    Raises:
      CheckpointError: it holds no matrix, or cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._cut = cut(checkpoint)
        named = {module_name(piece.name): piece for piece in self._cut if piece.is_matrix}
        self.matrices: Mapping[str, Piece] = {name: named[name] for name in sorted(named, key=natural)}
        if not self.matrices:
            raise CheckpointError(checkpoint.path, "holds no matrix", "give the base that adapters were trained on")
        self._ends: dict[str, list[str]] = {}
        for name in self.matrices:
            for end in _ends(name):
                self._ends.setdefault(end, []).append(name)

    def find(self, name: str) -> str | None:
        """Returns the module of the base that a child's module or tensor is named after, if there is exactly one.

        Names may lack what stands first, or have more of it, and underscores may stand for dots.
        """
        own = module_name(name)
        for end in _ends(own):
            if end in self.matrices:
                return end
        found = self._ends.get(own, ())
        return found[0] if len(found) == 1 else None

    def sampled(self) -> Sampled:
        """Returns samples of all tensors, by which those of a file with other names are found."""
        return Sampled.of(self._cut)

    def directions(self, name: str, most: int) -> Directions:
        """Returns at most `most` directions on each side of a matrix: its leading singular vectors.

        They are found by a randomized range finder with power iterations (Halko, Martinsson and Tropp 2011,
        algorithms 4.4 and 5.1), in a few passes over the rows of the matrix; the random vectors depend on the shape
        alone.
        """
        piece = self.matrices[name]
        outputs, inputs = piece.shape[0], piece.shape[1] * piece.shape[2]
        rank = min(most, outputs, inputs)
        columns = min(rank + SPARE, outputs, inputs)
        probe = np.random.default_rng([outputs, inputs, 61]).standard_normal((inputs, columns))
        for turn in range(PASSES + 1):
            image, back = np.zeros((outputs, columns)), np.zeros((inputs, columns))
            for start, rows in matrix_rows(piece):
                own = slice(start, start + len(rows))
                image[own] = rows @ probe
                back += rows.T.astype(np.float64) @ image[own]
            if turn < PASSES:
                probe = np.linalg.qr(back)[0]
        basis = np.linalg.qr(image)[0]
        small, squares = np.zeros((columns, inputs)), 0.0
        for start, rows in matrix_rows(piece):
            small += basis[start : start + len(rows)].T @ rows
            squares += float(np.square(rows, dtype=np.float64).sum())
        u, _, vt = np.linalg.svd(small, full_matrices=False)
        return Directions(basis @ u[:, :rank], vt[:rank].T, squares)


def module_name(name: str) -> str:
    """Returns the module of a tensor in one spelling: without the ends of weights, separated by underscores."""
    return SEPARATORS.sub("_", ENDS.sub("", name_in_base(name)))


def _ends(name: str) -> list[str]:
    """What a name ends with, part by part, the whole first."""
    parts = name.split("_")
    return ["_".join(parts[start:]) for start in range(len(parts))]
