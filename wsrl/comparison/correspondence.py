"""Which tensors and units of two networks correspond, and whether they agree more than those of independent ones.

Tensors are paired by their values, or by the order in which data flows. First the units are taken in the order in which
they stand: independent networks have no reason to agree in it. If they do not agree, units are matched through the
layers, forwards and backwards, and the two matchings have to agree (see `wsrl.comparison.chain`). Whether they could is
judged by some of the units first (see `wsrl.comparison.early_stop`).
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from wsrl.comparison.alignment import align
from wsrl.comparison.chain import Chains, Known, both, groups_of
from wsrl.comparison.early_stop import may_agree
from wsrl.comparison.formula import is_formula
from wsrl.comparison.matching import SMALLEST, Agreement, Matching, fixed_points, significant
from wsrl.comparison.pairing import SAMPLE, Pair, Sampled, pair_up

AGREEING = 0.5  # share of the units of a tensor that stand in the same order, from which that is taken for right
NEAR, ENTRIES = 0.9999, 16  # cosine of small tensors that are the same, and entries of all of them
CLOSE = 0.9  # cosine of small tensors whose units all agree
FEATURES = 4  # entries of a unit that is tested


@dataclass(frozen=True)
class Correspondence:
    """Of two networks a and b.

    Attributes:
      pairs: of tensors.
      tests: of the units of each pair.
      pooled: units that agree over all groups.
      related: whether they agree more than those of independent networks.
      known: matchings of groups of units; those that are not there are in order. Empty if the networks are not related.
    """

    pairs: list[Pair]
    tests: list[Agreement | None]
    pooled: Agreement
    related: bool
    known: Known

    @property
    def in_order(self) -> bool:
        """Whether all units stand in the same order, as far as that is known."""
        return all(matching.ordered for matching in self.known.values())


def correspond(a: Sampled, b: Sampled) -> Correspondence:
    """Returns what corresponds in two networks.

    Raises:
      CheckpointError: a tensor holds NaN or Inf, or cannot be read.
    """
    pairs = pair_up(a, b)
    tests, pooled = _in_order(pairs)
    related = significant(tests, pooled)
    small = not significant(tests, Agreement(pooled.units, pooled.units))  # the test could show nothing
    if not related and small:
        related = _near(pairs, pooled)
    known = _proven(pairs, tests) if related else {}
    if not related or not all(_explained(pair, test) for pair, test in zip(pairs, tests, strict=True)):
        matrices = [pair for pair in pairs if pair.a and pair.b and pair.a.is_matrix]
        if not related and not small and not may_agree(matrices):
            return Correspondence(pairs, tests, pooled, False, {})
        chains = Chains(matrices, known)
        chains.run()
        own = chains.agreements()
        matched = sum(own.values(), Agreement(0, 0))
        if not related and (significant(list(own.values()), matched) or (small and _near_matched(pairs, chains))):
            related, pooled, known = True, matched, chains.joined(own)
            tests = _of_pairs(pairs, own)
        elif related:
            known = chains.joined({groups: test for groups, test in own.items() if test.share > AGREEING})
        elif not pooled.units:
            pooled = matched
    return Correspondence(pairs, tests, pooled, related, known)


def _near(pairs: list[Pair], pooled: Agreement) -> bool:
    """Whether matrices of too few units for a test agree entry by entry, as training anew would not make them.

    If all units agree too, then rounding to few bits may have changed the entries.
    """
    least = CLOSE if pooled.units and pooled.share == 1 else NEAR
    matrices = [pair for pair in pairs if any(piece is not None and piece.is_matrix for piece in (pair.a, pair.b))]
    entries = sum(pair.a.tensor.size for pair in matrices if pair.a is not None)
    return entries >= ENTRIES and all(pair.cosine > least for pair in matrices)


def _near_matched(pairs: list[Pair], chains: Chains) -> bool:
    """Whether both chains match all units of networks too small for a test alike, and their matrices agree then."""
    own = chains.agreements()
    if not own or any(test.share < 1 for test in own.values()):
        return False
    layers = align(pairs, chains.joined(own), [None] * len(pairs))
    matrices = [layer for layer in layers if any(p is not None and p.is_matrix for p in (layer.pair.a, layer.pair.b))]
    entries = sum(layer.difference.entries for layer in matrices if layer.difference)
    return entries >= ENTRIES and all(layer.difference and layer.difference.cosine > CLOSE for layer in matrices)


def _proven(pairs: list[Pair], tests: list[Agreement | None]) -> Known:
    """The groups whose units stand in the same order."""
    known: Known = {}
    for pair, test in zip(pairs, tests, strict=True):
        if test is not None and test.share > AGREEING:
            for side, units in enumerate(both(pair)[0].sides()):
                groups = groups_of(pair, side)
                if groups is not None and pair.cosine > 0:
                    known[groups] = Matching.identity(units.size, units.size)
    return known


def _explained(pair: Pair, test: Agreement | None) -> bool:
    """Whether a pair needs no matching of units."""
    if pair.a is None or pair.b is None or not pair.a.is_matrix:
        return True
    return pair.a.shape == pair.b.shape and (test is None or test.share > AGREEING)


def _in_order(pairs: list[Pair]) -> tuple[list[Agreement | None], Agreement]:
    """Tests each pair, and all groups together, each once, for units that stand in the same order."""
    tests: list[Agreement | None] = []
    groups: dict[object, Agreement] = {}
    for pair in pairs:
        test = None
        if pair.a and pair.b and pair.a.shape == pair.b.shape and pair.a.is_matrix:
            side = _tested_side(pair)
            if side is not None:
                x, y = (piece.sample(SAMPLE) for piece in both(pair))
                if np.array_equal(x, y) and is_formula(x, SAMPLE):  # says nothing of the training
                    tests.append(None)
                    continue
                test = fixed_points(*(np.moveaxis(s, side, 0).reshape(s.shape[side], -1) for s in (x, y)))
                units, others = (piece.sides()[side] for piece in both(pair))
                key = units.group or others.group or ("unknown", units.length)
                if key not in groups or groups[key].units < test.units:
                    groups[key] = test
        tests.append(test)
    return tests, sum(groups.values(), Agreement(0, 0))


def _tested_side(pair: Pair) -> int | None:
    """The side whose units could stand in any order: pixels, words and classes could not.

    Where the wiring of one of the files does not tell, the other's counts.
    """
    a, b = both(pair)
    for side, units in enumerate(zip(a.sides(), b.sides(), strict=True)):
        telling = [own for own in units if own.group is not None] or units
        length = a.shape[side]
        if not any(own.fixed for own in telling) and length >= SMALLEST and prod(a.shape) // length >= FEATURES:
            return side
    return None


def _of_pairs(pairs: list[Pair], own: dict) -> list[Agreement | None]:
    """The test of the units that a pair writes, else of those that it reads."""
    tests = []
    for pair in pairs:
        groups = [groups_of(pair, side) for side in (0, 1)] if pair.a and pair.b else []
        tests.append(next((own[g] for g in groups if g in own), None))
    return tests
