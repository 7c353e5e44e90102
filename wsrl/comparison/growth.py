"""What one of two related networks has more than the other: layers, units, words, a head."""

from collections.abc import Sequence
from dataclasses import dataclass

from wsrl.comparison.formula import is_formula
from wsrl.comparison.layer import Layer
from wsrl.comparison.pairing import SAMPLE
from wsrl.comparison.pieces import Piece
from wsrl.comparison.relation import Kind

TIED = 0.999  # cosine of a matrix that a file repeats
SMALL = 0.01  # share of the entries of a network that it may have more without being another
CORRELATED = 0.3  # cosine of what two tensors of unlike shape have in common


@dataclass(frozen=True)
class Growth:
    """How the networks differ in what they have.

    Attributes:
      kind: `extended` or `pruned`; None where neither can be said.
      reason: a sentence, or nothing.
      derived: the side that was made from the other, where that shows.
      alike: whether every tensor that counts has a counterpart of the same shape.
    """

    kind: Kind | None = None
    reason: str = ""
    derived: str | None = None
    alike: bool = True


def growth(layers: Sequence[Layer]) -> Growth:
    """Returns what one network has more than the other, from pairs of tensors of related networks."""
    single = {"a": _only(layers, "a"), "b": _only(layers, "b")}
    for side, other in (("a", "b"), ("b", "a")):
        copies = [layer for layer in single[side] if layer.pair.like and not _is_tied(layer)]
        if copies and not any(layer.pair.like for layer in single[other]):
            told = f"{len(copies)} tensors of one network are copies of layers that have a counterpart of their own"
            return Growth(Kind.EXTENDED, told, side, False)
    own = {side: [layer for layer in single[side] if not _is_tied(layer)] for side in single}
    sizes = {side: sum(_piece(layer).tensor.size for layer in own[side]) for side in own}
    large = {side for side in own if sizes[side] > SMALL * _entries(layers, side)}
    resized = _resized(layers)
    if resized is not None:
        return resized
    if len(large) == 2:
        return Growth(alike=False)
    if large:
        (side,) = large
        blocks = {_piece(layer).shape for layer in layers if layer.pair.a and layer.pair.b and layer.difference}
        taken = [layer for layer in own[side] if _piece(layer).shape in blocks]
        smaller = "b" if side == "a" else "a"
        if taken:
            told = f"{len(taken)} tensors of one network, layers like others, are missing in the other"
            return Growth(Kind.PRUNED, told, smaller, False)
        return Growth(Kind.EXTENDED, "one network holds the other and more", side, False)
    return Growth()


def _resized(layers: Sequence[Layer]) -> Growth | None:
    """Whether units, or words, are more in one network; heads of another size are none of these."""
    fewer = {"a": 0, "b": 0}
    words = {"a": 0, "b": 0}
    for layer in layers:
        a, b = layer.pair.a, layer.pair.b
        if a is None or b is None or a.shape == b.shape or layer.difference is None or not a.is_matrix:
            continue
        correlated = layer.difference.cosine > CORRELATED
        for x, y, units in zip(a.shape, b.shape, (*a.sides(), None), strict=True):
            if x != y and correlated:
                counts = words if units is None or units.fixed else fewer
                counts["a" if x < y else "b"] += 1
    for counts, kind in ((fewer, Kind.PRUNED), (words, Kind.EXTENDED)):
        sides = [side for side, count in counts.items() if count]
        if len(sides) == 1:
            other = "b" if sides[0] == "a" else "a"
            if kind is Kind.PRUNED:
                return Growth(kind, "one network has fewer units", sides[0], False)
            return Growth(kind, "one network has more inputs, words or outputs", other, False)
        if sides:
            return Growth(alike=False)
    pairs = [(layer.pair.a, layer.pair.b) for layer in layers]
    same = all(a is None or b is None or not a.is_matrix or a.shape == b.shape for a, b in pairs)
    return None if same else Growth(alike=False)


def _only(layers: Sequence[Layer], side: str) -> list[Layer]:
    """Matrices that only one side has."""
    found = [layer for layer in layers if (layer.pair.b if side == "a" else layer.pair.a) is None]
    return [layer for layer in found if _piece(layer).is_matrix]


def _is_tied(layer: Layer) -> bool:
    """Whether the tensor repeats one that has a counterpart, as a file does with the words of inputs and outputs.

    What a formula fills, as a filter bank or the positions of words, another file need not hold at all.
    """
    piece = _piece(layer)
    ends = any(units.fixed for units in piece.sides())
    tied = layer.pair.like is not None and layer.pair.like[1] > TIED and ends
    return tied or is_formula(piece.sample(SAMPLE), SAMPLE)


def _entries(layers: Sequence[Layer], side: str) -> int:
    pieces = [layer.pair.a if side == "a" else layer.pair.b for layer in layers]
    return sum(piece.tensor.size for piece in pieces if piece is not None)


def _piece(layer: Layer) -> Piece:
    piece = layer.pair.a or layer.pair.b
    assert piece is not None
    return piece
