"""Merges that keep some entries of what training changed and drop the others.

A merged network is b + sum of c_i m_i (p_i - b) with the base b, parents p_i and masks m_i of entries: drawn at random,
what is left being scaled up (DARE, Yu et al. 2024), or those of largest size (TIES, Yadav et al. 2023, which takes the
mean of the parents that agree in sign instead of the sum). Each of few values explains an entry, so the coefficients
stand out as what many entries have been multiplied by, and no masks have to be known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import ml_dtypes
import numpy as np
from jaxtyping import Float64

ROUNDING = {"float16": float(np.finfo(np.float16).eps), "bfloat16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)}
SINGLE = float(np.finfo(np.float32).eps)
ERRORS = 4  # roundings that an entry may be off by
RESOLVED = 30  # errors that a change has to have for its factor to be known
WIDTH = 0.005  # relative, of the factors that count as one
ATOM = 0.03  # share of the entries that one parent alone has to explain
EXPLAINED = 0.98  # share of the entries that a merge explains
CHANCE = 0.2  # share that it may explain if the entries are shifted against one another
FEWEST = 500  # entries that tell a factor
MOST = 5  # parents
LARGER = 1.1  # size of the changes that are kept, over that of all, from which on the largest were chosen


@dataclass(frozen=True)
class Masked:
    """A merge that was recognized.

    Attributes:
      base: which of the parents the others were trained from.
      factors: by which the kept entries of each parent's change are multiplied; 0 of the base and of one that takes no
        part.
      kept: share of the entries of each change that are kept.
      mean: whether parents are averaged in an entry, not summed.
      largest: whether the largest changes of a parent are kept rather than any.
      explained: share of the entries.
    """

    base: int
    factors: tuple[float, ...]
    kept: tuple[float, ...]
    mean: bool
    largest: bool
    explained: float

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Of all parents; entries that were dropped at random stand for all, so their share is multiplied in."""
        found = [c if self.largest else c * kept for c, kept in zip(self.factors, self.kept, strict=True)]
        found[self.base] = 1 - sum(found)
        return tuple(found)

    def told(self, names: Sequence[str]) -> tuple[str, ...]:
        """Returns what was found, a sentence each."""
        how = "their mean is taken where several are kept, as by TIES" if self.mean else "summed, as by DARE"
        which = "largest changes" if self.largest else "changes, at random,"
        kept = [
            f"of {name} {100 * share:.3g} % of the {which} are kept, times {factor:.3g}"
            for name, factor, share in zip(names, self.factors, self.kept, strict=True)
            if factor
        ]
        return f"changes of {names[self.base]} explain {100 * self.explained:.3g} % of the entries; {how}", *kept


def find_masked(entries: Float64[np.ndarray, "networks n"], types: Sequence[str]) -> Masked | None:
    """Returns the merge that explains a network's entries; None if there is none of this kind.

    Args:
      entries: those of the merged network first, then of its parents, the base among them.
      types: of the numbers in the files, for their rounding.
    """
    merged, parents = entries[0], entries[1:]
    if not 2 <= len(parents) <= MOST:
        return None
    relative = np.array([[ROUNDING.get(own, SINGLE)] for own in types])
    rounding = ERRORS * np.abs(relative * entries).max(0)
    same = (np.abs(parents - merged) <= rounding).mean(1)  # what was dropped is the base's
    for base in np.argsort(-same, kind="stable").tolist():
        found = _from_base(merged - parents[base], parents - parents[base], rounding, base)
        if found is not None:
            return found
    return None


def _from_base(
    change: Float64[np.ndarray, " n"],
    changes: Float64[np.ndarray, "p n"],
    rounding: Float64[np.ndarray, " n"],
    base: int,
) -> Masked | None:
    told = (np.abs(changes) > RESOLVED * rounding).any(0)
    if told.sum() < FEWEST:
        return None
    change, changes, rounding = change[told], changes[:, told], rounding[told]
    factors = np.array([0.0 if i == base else _factor(change, own, rounding) for i, own in enumerate(changes)])
    best = max((_explain(change, changes, factors, rounding, mean) for mean in (False, True)), key=_share)
    if _share(best) < EXPLAINED:
        return None
    shifted = np.roll(change, 1)
    by_chance = _explain(shifted, changes, factors, rounding, best[0])[1] >= 0
    changed = np.abs(shifted) > rounding
    if not changed.any() or by_chance[changed].mean() > CHANCE:
        return None
    mean, which, sets = best
    masks = np.array([[i in chosen for chosen in sets] for i in range(len(changes))])[:, which] & (which >= 0)
    taking = masks.any(1)
    kept = (np.square(changes) * masks).sum(1)[taking] / masks.sum(1)[taking]
    largest = bool((kept > LARGER**2 * np.square(changes[taking]).mean(1)).any())
    return Masked(base, tuple(factors.tolist()), tuple(masks.mean(1).tolist()), mean, largest, _share(best))


def _factor(
    change: Float64[np.ndarray, " n"], own: Float64[np.ndarray, " n"], rounding: Float64[np.ndarray, " n"]
) -> float:
    """By what most entries of a parent's change have been multiplied; 0 if nothing stands out."""
    sure = (np.abs(own) > RESOLVED * rounding) & (np.abs(change) > rounding)
    if sure.sum() < FEWEST:
        return 0.0
    ratios = change[sure] / own[sure]
    best, count = 0.0, 0
    for sign in (1, -1):
        sizes = np.sort(sign * ratios[sign * ratios > 0])
        if len(sizes):
            ends = np.searchsorted(sizes, sizes * (1 + 2 * WIDTH), side="right")
            first = int(np.argmax(ends - np.arange(len(sizes))))
            if ends[first] - first > count:
                best, count = sign * float(np.median(sizes[first : ends[first]])), ends[first] - first
    return best if count >= ATOM * sure.sum() else 0.0


Explained = tuple[bool, np.ndarray, list[tuple[int, ...]]]  # mean or sum, which set explains an entry (-1: none), sets


def _explain(
    change: Float64[np.ndarray, " n"],
    changes: Float64[np.ndarray, "p n"],
    factors: Float64[np.ndarray, " p"],
    rounding: Float64[np.ndarray, " n"],
    mean: bool,
) -> Explained:
    """Finds for each entry the parents of which it is the sum, or the mean."""
    own = np.flatnonzero(factors).tolist()
    sets = [chosen for size in range(len(own) + 1) for chosen in combinations(own, size)]
    which, nearest = np.full(len(change), -1), np.full(len(change), np.inf)
    for number, chosen in enumerate(sets):
        parts = changes[list(chosen)] * factors[list(chosen), None]
        value = parts.sum(0) / (max(len(chosen), 1) if mean else 1)
        off = np.abs(change - value)
        near = (off <= rounding + WIDTH / 2 * np.abs(parts).sum(0)) & (off < nearest)
        which[near], nearest[near] = number, off[near]
    return mean, which, sets


def _share(found: Explained) -> float:
    return float((found[1] >= 0).mean())
