"""Which tensor of one network corresponds to which of another: by values where units keep their order, or by place."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy.optimize import linear_sum_assignment

from wsrl.canonical.rows import forget_pages
from wsrl.comparison.matching import TINY, similarity
from wsrl.comparison.pieces import Piece

SAMPLE = 256  # units of either side of a matrix that are compared
VECTOR = 2**16  # entries of a vector
IN_ORDER = 0.05  # cosine that the same place among the tensors of a shape is worth, and the same form of both sides
ALIKE = 0.5  # cosine of tensors that are taken for copies
TRIALS = 1000  # of tensors with their axes turned
CHANCE = 4.0  # standard deviations that the cosine of independent entries hardly exceeds
EQUAL = 1e-6  # distance of vectors that are the same
ROUNDED = 0.02  # distance of vectors that are the same entry by entry, but for rounding or a step of training
SAME_ROLE = 0.3  # distance that the same role is worth to a vector
SAME_PLACE = 0.1  # distance that the same place after the same matrix is worth to a vector

Sample = Float32[np.ndarray, "_written _read _taps"]  # each of its own


@dataclass(frozen=True)
class Pair:
    """Two tensors that correspond, or one without a counterpart.

    Attributes:
      a, b: the pieces.
      cosine: of the samples of their entries, in the order in which they are; 0 where the shapes differ.
      like: of a tensor without a counterpart, the most similar one of the other network and the cosine of both.
    """

    a: Piece | None
    b: Piece | None
    cosine: float = 0.0
    like: tuple[str, float] | None = None


@dataclass(frozen=True)
class Sampled:
    """The pieces of a network with samples of their entries."""

    pieces: tuple[Piece, ...]
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, pieces: tuple[Piece, ...]) -> "Sampled":
        """Reads the samples; vectors as a whole, as their sorted entries are compared."""
        samples = []
        for piece in pieces:
            samples.append(piece.sample(SAMPLE if piece.is_matrix else VECTOR))
            forget_pages(piece.tensor)
        return cls(pieces, tuple(samples))


def pair_up(a: Sampled, b: Sampled) -> list[Pair]:
    """Returns all pieces of both in pairs: in A's order, then those that only B has.

    Matrices of one shape are paired so that the sum of the cosines of their entries is largest. Where these say
    nothing, since units have been permuted or the networks are unrelated, the order in which data flows decides.
    Vectors are compared by their sorted values, and go with the matrix before them where these are alike.
    """
    partners: dict[int, int] = {}
    cosines: dict[int, float] = {}
    for own, others in _classes(a, b, shape=True):
        close = _cosines([a.samples[i] for i in own], [b.samples[j] for j in others])
        places = np.equal.outer(np.arange(len(own)), np.arange(len(others)))
        built = [[_build(a.pieces[i]) == _build(b.pieces[j]) for j in others] for i in own]
        score = close + IN_ORDER * (places + np.array(built, float))
        for i, j in zip(*linear_sum_assignment(-score), strict=True):
            partners[own[i]], cosines[own[i]] = others[j], float(close[i, j])
    turned = _turned(a, b, partners, cosines)
    for own, others in _classes(a, b, shape=False, taken=partners):
        if len(own) == len(others):
            partners |= dict(zip(own, others, strict=True))
    partners |= _vectors(a, b, partners)
    pairs = []
    for i, piece in enumerate(a.pieces):
        own, other = turned.get(i) or (piece, b.pieces[partners[i]] if i in partners else None)
        pairs.append(Pair(own, other, cosines.get(i, 0.0), _like(a.samples[i], b) if other is None else None))
    only_b = sorted(set(range(len(b.pieces))) - set(partners.values()))
    return pairs + [Pair(None, b.pieces[j], 0.0, _like(b.samples[j], a)) for j in only_b]


def _turned(
    a: Sampled, b: Sampled, partners: dict[int, int], cosines: dict[int, float]
) -> dict[int, tuple[Piece, Piece]]:
    """Pairs matrices whose axes turn out to stand in another order; changes `partners` and `cosines`.

    The piece whose axes are not known is turned.
    """
    found: dict[int, tuple[Piece, Piece]] = {}
    trials = TRIALS
    for i, own in enumerate(a.pieces):
        if not own.is_matrix or cosines.get(i):
            continue
        held = {j for k, j in partners.items() if k != i and cosines.get(k)}
        best, place = (ALIKE, own, own), i
        for j, other in enumerate(b.pieces):
            if other.is_matrix and j not in held and _lengths(other) == _lengths(own) and trials > 0:
                turn_a = other.known and not own.known
                for turned in own.turned(other.shape) if turn_a else other.turned(own.shape):
                    trials -= 1
                    fixed = b.samples[j] if turn_a else a.samples[i]
                    sample = _turned_sample(turned, *((own, a.samples[i]) if turn_a else (other, b.samples[j])))
                    close = float(_cosines([fixed], [sample])[0, 0])
                    if close > best[0]:
                        best, place = (close, *((turned, other) if turn_a else (own, turned))), j
        if best[0] > ALIKE:
            for k in [k for k, taken in partners.items() if taken == place]:
                del partners[k]
            partners[i], cosines[i], found[i] = place, best[0], best[1:]
    return found


def _turned_sample(turned: Piece, piece: Piece, sample: Sample) -> Sample:
    """The sample of a piece whose axes have been turned; a transposed one has that of the piece, transposed."""
    if turned.axes[:2] == (piece.axes[1], piece.axes[0]):
        return sample.transpose(1, 0, 2)
    return turned.sample(SAMPLE)


def _lengths(piece: Piece) -> list[int]:
    return sorted(n for n in piece.tensor.shape if n > 1)


def _like(sample: Sample, others: Sampled) -> tuple[str, float] | None:
    """The tensor of the other network that a tensor without a counterpart is most like, turned or not, and the cosine.

    Tied matrices that a file repeats, and layers that were copied to make a network deeper, show so.
    """
    best = ("", ALIKE)
    for piece, other in zip(others.pieces, others.samples, strict=True):
        if piece.is_matrix:
            for values in (other, other.transpose(1, 0, 2)):
                if values.shape == sample.shape:
                    best = max(best, (piece.name, float(_cosines([sample], [values])[0, 0])), key=lambda c: c[1])
    return best if best[0] else None


def _classes(
    a: Sampled, b: Sampled, shape: bool, taken: dict[int, int] | None = None
) -> list[tuple[list[int], list[int]]]:
    """Matrices of both that have one shape, or only as many taps and no partner yet."""
    found: dict[object, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    taken = taken or {}
    for side, (network, gone) in enumerate(((a, set(taken)), (b, set(taken.values())))):
        for i, piece in enumerate(network.pieces):
            if piece.is_matrix and i not in gone:
                found[piece.shape if shape else piece.shape[2]][side].append(i)
    return [classes for classes in found.values() if all(classes)]


def _build(piece: Piece) -> tuple:
    """How the units lie along the sides of a piece."""
    return tuple((u.group is None, u.fixed, u.outer, u.size, u.inner) for u in piece.sides())


def _cosines(a: Sequence[Sample], b: Sequence[Sample]) -> Float[np.ndarray, "n m"]:
    """Cosines of all entries; 0 where they could well be chance."""
    close = similarity(np.stack([x.ravel() for x in a]), np.stack([x.ravel() for x in b]))
    return np.where(np.abs(close) * np.sqrt(a[0].size) > CHANCE, close, 0.0)


def _vectors(a: Sampled, b: Sampled, partners: dict[int, int]) -> dict[int, int]:
    """Pairs vectors of one length by their entries, or sorted ones, and by the partner of the matrix before them."""
    before_a, before_b = _matrix_before(a.pieces), _matrix_before(b.pieces)
    found: dict[int, int] = {}
    lengths: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, before in enumerate((before_a, before_b)):
        for i in before:
            lengths[(a, b)[side].pieces[i].tensor.size][side].append(i)
    for own, others in lengths.values():
        if own and others:
            x, y = ([np.sort(n.samples[i].ravel()) for i in at] for n, at in ((a, own), (b, others)))
            far = _distances(np.stack(x), np.stack(y))
            in_order = _distances(*(np.stack([n.samples[i].ravel() for i in at]) for n, at in ((a, own), (b, others))))
            score = np.where(in_order < ROUNDED, 1.0 - in_order, np.where(far < EQUAL, 1.0, -far))
            for m, i in enumerate(own):
                matrix, offset = before_a[i]
                for n, j in enumerate(others):
                    partner = None if matrix is None else partners.get(matrix, -1)
                    score[m, n] += SAME_ROLE * (a.pieces[i].role == b.pieces[j].role)
                    score[m, n] += SAME_PLACE * (before_b[j][0] == partner) * (1 + (before_b[j][1] == offset))
            chosen = linear_sum_assignment(-score)
            found |= {own[m]: others[n] for m, n in zip(*chosen, strict=True)}
    return found


def _distances(a: Float[np.ndarray, "n length"], b: Float[np.ndarray, "m length"]) -> Float[np.ndarray, "n m"]:
    """Norms of the differences over the sums of the norms; in float64, in which those of equal vectors are near 0."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1)[:, None] + np.linalg.norm(b, axis=1)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0)) / np.maximum(norms, TINY)


def _matrix_before(pieces: Sequence[Piece]) -> dict[int, tuple[int | None, int]]:
    """Of each vector the matrix before it in the order of data flow, and how many vectors stand between."""
    places: dict[int, tuple[int | None, int]] = {}
    matrix, offset = None, 0
    for i, piece in enumerate(pieces):
        if piece.is_matrix:
            matrix, offset = i, 0
        else:
            places[i] = matrix, offset
            offset += 1
    return places
