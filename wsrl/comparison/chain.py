"""Matching of the units of two networks through their layers, from the inputs forwards and from the outputs backwards.

Units are compared by what they read once the units that they read are matched, which starts at the inputs, whose order
is known; and, in a chain of its own, by what reads them, which starts at the outputs. The chains share no tensor, so
nothing but a common start of training makes them agree. Tensors are binormalized before, so that the scales of units,
norms and quantizers do not count; signs are found on the way.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from wsrl.canonical.rows import forget_pages
from wsrl.comparison.matching import (
    SMALLEST,
    TINY,
    Agreement,
    Matching,
    agreement,
    match,
    match_features,
    similarity,
    unit,
)
from wsrl.comparison.pairing import Pair
from wsrl.comparison.pieces import Piece, Units, spread
from wsrl.signature.binormalization import Scales, Squares, binormalize

Groups = tuple[str, str]  # of A and of B
Known = dict[Groups, Matching]
Array = Float[np.ndarray, "_written _read _taps"]
Features = tuple[Float[np.ndarray, "n features"], Float[np.ndarray, "m features"]]  # of the units of A and of B

WRITTEN, READ = 0, 1
COMPLETED = 4096  # units of a group up to which those without a mutual partner are assigned too
SWEEPS = 2
LARGE, SOME = 2**21, 512  # entries of a tensor of which only so many units of one side are looked at
MOST_LARGE = 8  # of such tensors that match the units of a group
SURE = 0.7  # share of units, and median cosine, of a tensor whose units are matched without any other


@dataclass
class Chains:
    """Both chains over the pairs of two networks.

    Attributes:
      pairs: of matrices, in the order of data flow.
      known: matchings that are known beforehand.
      forward, backward: what the chains find.
      borrowed: groups that the backward chain took from the forward one.
    """

    pairs: Sequence[Pair]
    known: Known = field(default_factory=dict)
    forward: Known = field(default_factory=dict)
    backward: Known = field(default_factory=dict)
    borrowed: set[Groups] = field(default_factory=set)
    _cache: dict[str, tuple[Array, Array]] = field(default_factory=dict, init=False, repr=False)

    def run(self) -> None:
        """Matches all groups that can be reached, forwards and backwards.

        Raises:
          CheckpointError: a tensor holds NaN or Inf, or cannot be read.
        """
        self.run_forwards()
        while self.step_backwards():
            pass

    def run_forwards(self) -> None:
        """Matches all groups that can be reached from the inputs; raises as `run` does."""
        self.forward, self.backward = dict(self.known), dict(self.known)
        while self._step(self.forward, WRITTEN, self.pairs):
            pass

    def step_backwards(self) -> bool:
        """Matches the next group from the outputs; False if there is none. Raises as `run` does."""
        return self._step(self.backward, READ, self.pairs[::-1]) or self._borrow()

    def agreements(self) -> dict[Groups, Agreement]:
        """Returns how far the chains agree in each group that both matched on their own."""
        found = {groups: self.agreement_of(groups) for groups in self.forward}
        return {groups: test for groups, test in found.items() if test is not None}

    def agreement_of(self, groups: Groups) -> Agreement | None:
        """Returns how far the chains agree in a group; None if not both matched it on their own, or it is small."""
        own = groups in self.forward and groups in self.backward
        if not own or groups in self.known or groups in self.borrowed:
            return None
        sizes = self._sizes(groups)
        return agreement(self.forward[groups], self.backward[groups], *sizes) if min(sizes) >= SMALLEST else None

    def joined(self, agreeing: Collection[Groups]) -> Known:
        """Returns the known matchings and, from all tensors, those of groups in which the chains agree.

        Groups that only one chain reached, or too small for a test, are joined to them. Where both chains match all
        units alike, all tensors together could find nothing else.
        """
        tested = self.agreements()
        joined = {g: m for g, m in (self.backward | self.forward).items() if g not in tested or g in agreeing}
        sure = {g for g, test in tested.items() if test.share == 1 and self.forward[g].is_same(self.backward[g])}
        for _ in range(SWEEPS):
            moved = False
            for groups in [g for g in joined if g not in sure and g not in self.known]:
                units = self._units(groups, joined, (WRITTEN, READ))
                if units is not None:
                    found = _completed(*units, match_features(*units))
                    moved |= not found.is_same(joined[groups])
                    joined[groups] = found
            if not moved:
                break
        return joined

    def _step(self, known: Known, side: int, pairs: Sequence[Pair]) -> bool:
        """Matches the next group; False if there is none whose other sides are known."""
        for pair in pairs:
            groups = groups_of(pair, side)
            if groups is not None and groups not in known and self._ready(pair, 1 - side, known):
                units = self._units(groups, known, (side,))
                if units is not None:
                    known[groups] = self._matched(groups, units, known, side)
                    return True
        return False

    def _matched(self, groups: Groups, units: Features, known: Known, side: int) -> Matching:
        """Matches the units of a group by what they read, or by what reads them."""
        return match_features(*units)

    def _borrow(self) -> bool:
        """Takes over the last group that only the forward chain could reach, a residual stream without a head say."""
        for pair in self.pairs[::-1]:
            for side in (WRITTEN, READ):
                groups = groups_of(pair, side)
                if groups in self.forward and groups not in self.backward and groups is not None:
                    self.backward[groups] = self.forward[groups]
                    self.borrowed.add(groups)
                    return True
        return False

    def _ready(self, pair: Pair, side: int, known: Known) -> bool:
        return matching_of(pair, side, known) is not None

    def _sizes(self, groups: Groups) -> tuple[int, int]:
        for pair in self.pairs:
            for side in (WRITTEN, READ):
                if groups_of(pair, side) == groups:
                    a, b = both(pair)
                    return a.sides()[side].size, b.sides()[side].size
        raise KeyError(groups)

    def _units(self, groups: Groups, known: Known, sides: Sequence[int]) -> Features | None:
        """All units of a group of A and B by tensors whose other side is known; their products add up cosines.

        Of large tensors some entries of the other side have to do, and of many large ones the first.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = []
        large = 0
        for pair in self.pairs:
            for side in sides:
                if groups_of(pair, side) != groups:
                    continue
                other = matching_of(pair, 1 - side, known)
                if other is None or groups_of(pair, 1 - side) == groups:
                    continue
                piece_a, piece_b = both(pair)
                if max(piece_a.tensor.size, piece_b.tensor.size) > LARGE:
                    large += 1
                    if large > MOST_LARGE:
                        continue
                    a, b = (balanced(values) for values in _some(pair, 1 - side, other))
                else:
                    a, b = _both_kept(pair, 1 - side, other, *self._balanced(pair))
                taps = min(a.shape[2], b.shape[2])
                pieces = (a[..., :taps], piece_a), (b[..., :taps], piece_b)
                x, y = (unit(_features(values, piece.sides()[side], side)) for values, piece in pieces)
                found.append((x, y))
                for piece in (piece_a, piece_b):
                    forget_pages(piece.tensor)
        if not found:
            return None
        return np.concatenate([x for x, _ in found], 1), np.concatenate([y for _, y in found], 1)

    def _balanced(self, pair: Pair) -> tuple[Array, Array]:
        a, b = both(pair)
        if a.name not in self._cache:
            self._cache.clear()  # one pair at a time stays in memory
            self._cache[a.name] = balanced(a.signed()), balanced(b.signed())
        return self._cache[a.name]


def balanced(values: Array) -> Array:
    """Returns a binormalized array: all slices along each axis have mean square 1, but for dead ones, which are 0."""
    if sum(n > 1 for n in values.shape) < 2:
        return values
    scales = binormalize(Squares(values))
    return np.zeros_like(values) if scales is None else _scaled(values, scales)


def rescaled(a: Array, b: Array) -> Array:
    """Returns b with its slices scaled along each axis as those of a are: from b = D a D' it makes a again.

    The scales that binormalization finds are then fitted, axis by axis, by least squares.
    """
    scales = [binormalize(Squares(values)) for values in (a, b)] if sum(n > 1 for n in a.shape) > 1 else [None]
    if any(scale is None for scale in scales):
        return b
    b = _scaled(b, [np.divide(y, x, out=np.zeros_like(x), where=x > 0) for x, y in zip(*scales, strict=True)])
    for axis in (*range(a.ndim), *range(a.ndim)):
        others = tuple(other for other in range(a.ndim) if other != axis)
        products = (a * b).sum(others, dtype=np.float64, keepdims=True)
        b = b * (products / np.maximum(np.square(b, dtype=np.float64).sum(others, keepdims=True), TINY)).astype(
            np.float32
        )
    return b


def _scaled(values: Array, squared: Scales) -> Array:
    """Multiplies an array by the roots of one vector of factors for each axis longer than 1."""
    axes = [axis for axis, length in enumerate(values.shape) if length > 1]
    for axis, factors in zip(axes, squared, strict=True):
        along = tuple(other for other in range(values.ndim) if other != axis)
        values = values * np.expand_dims(np.sqrt(factors).astype(np.float32), along)
    return values


def both(pair: Pair) -> tuple[Piece, Piece]:
    """Returns the two pieces of a pair that has both."""
    assert pair.a is not None and pair.b is not None
    return pair.a, pair.b


def groups_of(pair: Pair, side: int) -> Groups | None:
    """Returns the names of the groups on one side of a pair; None where an order is fixed or not known."""
    a, b = (piece.sides()[side] for piece in both(pair))
    if a.group is None or b.group is None or (a.outer, a.inner) != (b.outer, b.inner):
        return None
    return a.group, b.group


def matching_of(pair: Pair, side: int, known: Known) -> Matching | None:
    """Returns how the units on one side of a pair are matched; None where that is not known yet."""
    a, b = (piece.sides()[side] for piece in both(pair))
    groups = groups_of(pair, side)
    if groups is not None:
        return known.get(groups)
    return Matching.identity(a.length, b.length)


def _kept(
    values: Array, units: Units | None, side: int, places: Int[np.ndarray, "n"], sign: Float[np.ndarray, "n"]
) -> Array:
    """Keeps some units of one side, in the order given and with signs; without units the entries are meant."""
    if units is not None:
        grid = np.arange(units.length).reshape(units.outer, units.size, units.inner)
        sign = np.broadcast_to(sign[:, None], (units.outer, len(sign), units.inner)).ravel()
        places = grid[:, places].ravel()
    values = values.take(places, axis=side)
    if (sign < 0).any():
        shape = [1, 1, 1]
        shape[side] = -1
        values = values * sign.astype(values.dtype).reshape(shape)
    return values


def _both_kept(pair: Pair, side: int, matching: Matching, a: Array, b: Array) -> tuple[Array, Array]:
    """Brings B's units on one side into A's order; only matched ones are left."""
    grouped = groups_of(pair, side) is not None
    of_a, of_b = (piece.sides()[side] if grouped else None for piece in both(pair))
    return (
        _kept(a, of_a, side, matching.a, np.ones(len(matching.a))),
        _kept(b, of_b, side, matching.b, matching.sign),
    )


def _some(pair: Pair, side: int, matching: Matching) -> tuple[Array, Array]:
    """Reads some matched units on one side of a pair of large tensors, B's in A's order and with its signs."""
    places = spread(len(matching.a), SOME)
    grouped = groups_of(pair, side) is not None
    ones = np.ones(len(places))
    kept = []
    chosen = (matching.a[places], ones), (matching.b[places], matching.sign[places])
    for piece, (units, sign) in zip(both(pair), chosen, strict=True):
        own = piece.sides()[side]
        if grouped:
            grid = np.arange(own.length).reshape(own.outer, own.size, own.inner)
            sign = np.broadcast_to(sign[:, None], (own.outer, len(sign), own.inner)).ravel()
            units = grid[:, units].ravel()
        values = piece.taken(side, units)
        shape = [1, 1, 1]
        shape[side] = -1
        kept.append(values * sign.astype(np.float32).reshape(shape) if (sign < 0).any() else values)
    return kept[0], kept[1]


def _features(values: Array, units: Units, side: int) -> Float[np.ndarray, "units features"]:
    """[units, everything else]."""
    first = np.moveaxis(values, side, 0)
    split = first.reshape(units.outer, units.size, units.inner, *first.shape[1:])
    return np.moveaxis(split, 1, 0).reshape(units.size, -1)


def rematched(pair: Pair, known: Known) -> dict[int, Matching]:
    """Matches the units on one side of a pair by the other side alone; nothing where they are not the same for sure.

    So layers are found whose inputs a format keeps in another order, and those whose units nothing else reads.
    """
    piece_a, piece_b = both(pair)
    for side in (READ, WRITTEN):
        other = matching_of(pair, 1 - side, known)
        if other is None:
            other = Matching.identity(*(piece.sides()[1 - side].size for piece in (piece_a, piece_b)))
        a, b = _both_kept(pair, 1 - side, other, piece_a.signed(), piece_b.signed())
        taps = min(a.shape[2], b.shape[2])
        x, y = (np.moveaxis(v[..., :taps], side, 0).reshape(v.shape[side], -1) for v in (a, b))
        smaller = min(len(x), len(y))
        if smaller < SMALLEST or x.shape[1] < SMALLEST or max(len(x), len(y)) > COMPLETED:
            continue
        close = similarity(x, y)
        found = match(close)
        if len(found.a) > SURE * smaller and np.median(np.abs(close[found.a, found.b])) > SURE:
            return {side: found}
    return {}


def aligned(pair: Pair, known: Known, own: dict[int, Matching]) -> tuple[Array, Array, bool]:
    """Returns the arrays of a pair with B's units in A's order, only matched ones left; and whether B had another.

    Args:
      pair: of matrices or vectors.
      known: matchings of groups; those that are not there are in order.
      own: matchings of the entries on a side of this pair, which go before.
    """
    piece_a, piece_b = both(pair)
    moved = bool(own) or not all(matching.ordered for matching in known.values())
    a, b = (piece_a.signed(), piece_b.signed()) if moved else (piece_a.whole(), piece_b.whole())
    moved = False
    for side in (WRITTEN, READ):
        matching = own.get(side) or matching_of(pair, side, known)
        if matching is None:  # units that no chain reached are in order
            matching = Matching.identity(*(piece.sides()[side].size for piece in both(pair)))
        if side in own:
            a = _kept(a, None, side, matching.a, np.ones(len(matching.a)))
            b = _kept(b, None, side, matching.b, matching.sign)
        elif not matching.is_whole(a.shape[side], b.shape[side]):
            a, b = _both_kept(pair, side, matching, a, b)
        moved |= not matching.ordered
    taps = min(a.shape[2], b.shape[2])
    return a[..., :taps], b[..., :taps], moved


def _completed(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"], found: Matching) -> Matching:
    """Adds an assignment of the units that have no mutual partner, so that all of the smaller group are matched."""
    free_a = np.setdiff1d(np.arange(len(a)), found.a)
    free_b = np.setdiff1d(np.arange(len(b)), found.b)
    if not min(len(free_a), len(free_b)) or max(len(free_a), len(free_b)) > COMPLETED:
        return found
    rest = a[free_a] @ b[free_b].T
    rows, columns = linear_sum_assignment(-np.abs(rest))
    a, b = np.concatenate([found.a, free_a[rows]]), np.concatenate([found.b, free_b[columns]])
    order = np.argsort(a)
    sign = np.concatenate([found.sign, np.where(rest[rows, columns] < 0, -1.0, 1.0)])
    return Matching(a[order], b[order], sign[order])
