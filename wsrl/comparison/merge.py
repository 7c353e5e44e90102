"""Which combination of other networks a merged one is: coefficients by least squares, tensor by tensor.

Averages of fine-tuned networks, task arithmetic (Ilharco et al. 2023) and interpolations on a sphere are linear in each
tensor. What trims or drops entries first is not, and is looked for by `wsrl.comparison.masked_merge`. Parents whose
units stand in another order than those of the merged network are brought into its order before.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.chain import aligned
from wsrl.comparison.compare import compare
from wsrl.comparison.correspondence import Correspondence, correspond
from wsrl.comparison.masked_merge import MOST, find_masked
from wsrl.comparison.matching import TINY
from wsrl.comparison.pairing import SAMPLE, Pair, Sampled
from wsrl.comparison.pieces import Piece, blocks, cut, spread
from wsrl.comparison.relation import Kind, LayerRelation, Relation
from wsrl.readers import open_checkpoint

RELATED = 0.5  # cosine of tensors that are combined
EXPLAINED = 0.1  # residual over the distance to the nearest parent, below which a combination explains the network
SHARE = 0.02  # coefficient of a parent that takes part
CONDITION = 1e-6  # of the largest singular value: directions in which parents differ less say nothing
ENTRIES = 2**20  # that are looked at for a merge of some entries
PIECE = 2**17  # entries that are fitted at once
LIMITS = ("merges of networks whose units have other scales, or that were rounded to few bits, are not recognized",)

Source = str | Path | Checkpoint


@dataclass(frozen=True)
class _Partner:
    """The counterpart of a piece in a parent, and what corresponds in the whole networks."""

    pair: Pair
    found: Correspondence


@dataclass(frozen=True)
class _Fit:
    """Of one tensor: coefficients; squares of what they leave, of the distance to the nearest parent, of the first."""

    coefficients: Float64[np.ndarray, "parents"]
    residual: float
    nearest: float
    size: float


def find_merge(merged: Source, parents: Sequence[Source]) -> Relation:
    """Returns how a network is combined from others.

    Args:
      merged, parents: files, folders or `hf://owner/name`, or opened checkpoints; the base of fine-tuned networks is a
        parent too where task vectors were added to it.

    Returns:
      A relation of kind `merge` with the coefficient of each parent, the mean over tensors, and those of each tensor;
      where no combination explains the network, of the kind in which it is the same as one parent, with that parent's
      coefficient 1, or of kind `unknown`, which is related if the network is related to a parent.

    Raises:
      CheckpointError: one of them cannot be used, or a parent is given twice.
    """
    names = [str(source.path if isinstance(source, Checkpoint) else source) for source in parents]
    real = [name if name.startswith("hf://") else os.path.realpath(name) for name in names]
    for number, name in enumerate(names):
        if real[number] in real[:number]:
            raise CheckpointError(name, "is given twice as a parent", "name each parent once")
    sources = [merged, *parents]
    opened = [source if isinstance(source, Checkpoint) else open_checkpoint(source) for source in sources]
    own, *others = [Sampled.of(cut(checkpoint)) for checkpoint in opened]
    partners = [_partners(correspond(own, other)) for other in others]
    combined = {p.name: [found[p.name] for found in partners] for p in own.pieces if all(p.name in f for f in partners)}
    layers: list[LayerRelation] = []
    fits: list[_Fit] = []
    for piece in own.pieces:
        parents_of = combined.get(piece.name)
        if parents_of is None:
            layers.append(LayerRelation(piece.name, None, "only in a"))
            continue
        fit = _fitted(piece, parents_of)
        fits += [fit] if fit else []
        layers.append(_described(piece, parents_of[0].pair.b, fit))
    relation = _judged(fits, tuple(layers), names)
    if fits:
        relation = replace(relation, reasons=(*relation.reasons, *_unexplained(own.pieces, combined)))
    if relation.kind is Kind.MERGE:
        return relation
    if len(parents) > MOST:
        limit = f"merges of some entries (TIES, DARE) are looked for among {MOST} files at most, the base among them"
        relation = replace(relation, limits=(*relation.limits, limit))
    masked = (
        _masked([(p, combined[p.name]) for p in own.pieces if p.name in combined], relation, names) if fits else None
    )
    return masked or _alone(relation, opened, names)


def _unexplained(pieces: Sequence[Piece], combined: Collection[str]) -> tuple[str, ...]:
    """What the parents cannot explain, since not all of them have it; nothing if there is no such tensor."""
    others = [piece.tensor.size for piece in pieces if piece.name not in combined]
    share = sum(others) / max(sum(piece.tensor.size for piece in pieces), 1)
    told = f"{len(others)} tensors with {100 * share:.3g} % of the entries have no counterpart in all parents"
    return (f"{told} and are left out of this",) if others else ()


def _alone(relation: Relation, opened: Sequence[Checkpoint], names: Sequence[str]) -> Relation:
    """What a network that is no merge is to one of the parents."""
    related = []
    for name, parent in zip(names, opened[1:], strict=True):
        own = compare(opened[0], parent)
        if own.same:
            return replace(own, coefficients={name: 1.0}, reasons=(f"of {name} alone", *own.reasons))
        related += [name] if own.related else []
    reasons = (f"related to {' and '.join(related)}",) if related else ()
    return replace(relation, related=bool(related), reasons=(*relation.reasons, *reasons))


def _partners(found: Correspondence) -> dict[str, _Partner]:
    """The counterparts of A's pieces by their names, where the units of both are known to correspond."""
    partners = {}
    for pair in found.pairs:
        if pair.a is None or pair.b is None or pair.a.shape != pair.b.shape:
            continue
        if pair.cosine > RELATED or not pair.a.is_matrix or (found.related and not found.in_order):
            partners[pair.a.name] = _Partner(pair, found)
    return partners


def _values(piece: Piece, parents: Sequence[_Partner]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the entries of a piece and of its counterparts, in its order of units, a block at a time if it can."""
    if all(parent.found.in_order for parent in parents):
        yield from blocks((piece, *(parent.pair.b for parent in parents if parent.pair.b is not None)))
        return
    both = [aligned(parent.pair, parent.found.known, {})[:2] for parent in parents]
    if all(np.array_equal(own, both[0][0]) for own, _ in both):  # else units without a partner were left out
        yield both[0][0], *(other for _, other in both)


def _cut(blocks_of: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the entries of blocks, a piece at a time."""
    for values in blocks_of:
        flat = [value.ravel() for value in values]
        for start in range(0, len(flat[0]), PIECE):
            yield tuple(value[start : start + PIECE] for value in flat)


def _masked(
    combined: Sequence[tuple[Piece, list[_Partner]]], relation: Relation, names: Sequence[str]
) -> Relation | None:
    """The relation if some entries of the parents' changes are kept, judged by a part of all entries."""
    most = max(ENTRIES // len(combined), SAMPLE)
    parts: list[np.ndarray] = []
    for piece, parents in combined:
        for values in _values(piece, parents):
            places = spread(values[0].size, most)
            parts.append(np.stack([value.ravel()[places] for value in values]).astype(np.float64))
            break
    piece, parents = max(combined, key=lambda own: own[0].tensor.size)
    types = [own.tensor.dtype for own in (piece, *(parent.pair.b for parent in parents)) if own is not None]
    found = find_masked(np.concatenate(parts, 1), types) if parts else None
    if found is None:
        return None
    coefficients = {name: round(own, 4) for name, own in zip(names, found.coefficients, strict=True)}
    if sum(abs(own) > SHARE for own in coefficients.values()) < 2:
        return None
    reasons = (*relation.reasons, *found.told(names))
    return replace(relation, kind=Kind.MERGE, related=True, reasons=reasons, derived="a", coefficients=coefficients)


def _fitted(piece: Piece, parents: Sequence[_Partner]) -> _Fit | None:
    """Fits one tensor; None where the parents are equal.

    Fine-tuned networks differ little, so that the differences to the first parent are fitted: t - p = s p + sum of
    c_i (p_i - p), where the coefficients of all parents add up to 1 + s.
    """
    count = len(parents)
    gram, products = np.zeros((count, count)), np.zeros(count)
    squares, nearest = 0.0, np.zeros(count)
    for values in _cut(_values(piece, parents)):
        target, first, *others = (value.astype(np.float64) for value in values)
        basis = np.stack([first, *(other - first for other in others)])
        target -= first
        gram += basis @ basis.T
        products += basis @ target
        squares += float(target @ target)
        nearest += [target @ target, *(np.square(target - row).sum() for row in basis[1:])]
    lengths = np.sqrt(np.diagonal(gram))
    if (lengths[1:] <= CONDITION * lengths[0]).all():
        return None
    scales = np.where(lengths > CONDITION * lengths[0], 1 / np.maximum(lengths, TINY), 0)
    found = scales * (
        np.linalg.pinv(gram * np.outer(scales, scales), CONDITION**2, hermitian=True) @ (scales * products)
    )
    residual = squares - 2 * found @ products + found @ gram @ found
    coefficients = np.array([1 + found[0] - found[1:].sum(), *found[1:]])
    return _Fit(coefficients, max(float(residual), 0.0), float(nearest.min()), float(gram[0, 0]))


def _described(piece: Piece, parent: Piece | None, fit: _Fit | None) -> LayerRelation:
    base = LayerRelation(piece.name, parent.name if parent else None, "equal")
    if fit is None:
        return base
    what = "combined" if fit.residual <= EXPLAINED**2 * fit.nearest else "changed"
    change = float(np.sqrt(fit.residual / max(fit.size, TINY)))
    return replace(base, what=what, change=change, coefficients=tuple(map(float, fit.coefficients)))


def _judged(fits: Sequence[_Fit], layers: tuple[LayerRelation, ...], names: Sequence[str]) -> Relation:
    if not fits:
        return Relation(Kind.UNKNOWN, None, layers, False, ("no tensors of all networks correspond",), LIMITS)
    weights = np.array([fit.nearest for fit in fits]) + TINY  # tensors in which the merged network differs say most
    means = np.average([fit.coefficients for fit in fits], axis=0, weights=weights)
    residual = np.sqrt(sum(fit.residual for fit in fits) / max(sum(fit.nearest for fit in fits), TINY))
    told = f"a linear combination leaves {100 * residual:.3g} % of the distance to the nearest parent"
    merged = residual < EXPLAINED and (np.abs(means) > SHARE).sum() > 1
    coefficients = {name: round(float(mean), 4) for name, mean in zip(names, means, strict=True)}
    kind = Kind.MERGE if merged else Kind.UNKNOWN
    return Relation(kind, None, layers, bool(merged), (told,), LIMITS, "a" if merged else None, None, coefficients)
