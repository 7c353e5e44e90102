"""The tensors of two related networks in one order of units, and what each pair then differs in.

Two networks with the same units hold one order of the units of a group, whichever tensor one looks at. A tensor whose
units are all found again, but in an order that no other tensor of the group follows, was shuffled alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from wsrl.canonical.rows import forget_pages
from wsrl.comparison.chain import READ, WRITTEN, Known, aligned, both, groups_of, matching_of, rematched, rescaled
from wsrl.comparison.difference import Difference, measure
from wsrl.comparison.grid import Grid, find_grid, grid_of
from wsrl.comparison.layer import Layer
from wsrl.comparison.matching import Agreement, Matching, agreement
from wsrl.comparison.pairing import SAMPLE, Pair
from wsrl.comparison.pieces import BLOCK, blocks, first_side, spread

LIKELY = 0.5  # cosine of aligned matrices, below which their units are matched anew
SCALED = 1e-3  # change from which on other scales of units are reckoned with
EXACT, ROUNDED = 1e-5, 0.8  # changes between which a quantizer's lie
LESS = 0.5  # of the change that is left if units have other scales
SAME_ORDER = 0.5  # share of the units that two tensors of a group have to match alike


def align(
    pairs: Sequence[Pair], known: Known | None, tests: Sequence[Agreement | None], scales: bool = True
) -> list[Layer]:
    """Aligns and measures pairs.

    Args:
      pairs: of tensors.
      known: matchings of groups, those that are not there are in order; None of unrelated networks, which have none.
      tests: of each pair.
      scales: whether units may have other scales.

    Raises:
      CheckpointError: a tensor holds NaN or Inf, or cannot be read.
    """
    if known is None:
        return [Layer(pair, None, test) for pair, test in zip(pairs, tests, strict=True)]
    layers, orders = [], []
    for pair, test in zip(pairs, tests, strict=True):
        own: dict[int, Matching] = {}
        layers.append(_layer(pair, known, test, scales, own) if pair.a and pair.b else Layer(pair, None, test))
        orders.append(own)
        for piece in (pair.a, pair.b):
            if piece is not None:
                forget_pages(piece.tensor)
    return [
        replace(layer, shuffled=True) if own and _is_shuffled(number, layers, orders, known) else layer
        for number, (layer, own) in enumerate(zip(layers, orders, strict=True))
    ]


def _is_shuffled(number: int, layers: Sequence[Layer], orders: Sequence[Mapping[int, Matching]], known: Known) -> bool:
    """Whether other tensors of a group hold its units in another order than the one in which a tensor was found."""
    pair = layers[number].pair
    for side, matching in orders[number].items():
        groups = groups_of(pair, side)
        size = both(pair)[0].sides()[side].size
        if groups is None or len(matching.a) > size:
            continue
        for other, layer in enumerate(layers):
            found = layer.difference
            if other == number or found is None or found.cosine < LIKELY or not both(layer.pair)[0].is_matrix:
                continue
            for place in (WRITTEN, READ):
                if groups_of(layer.pair, place) == groups and both(layer.pair)[0].shape[place] == size:
                    order = orders[other].get(place) or known.get(groups) or Matching.identity(size, size)
                    if agreement(matching, order, size, size).share < SAME_ORDER:
                        return True
    return False


def _layer(pair: Pair, known: Known, test: Agreement | None, scales: bool, orders: dict[int, Matching]) -> Layer:
    """Aligns and measures a pair; enters in `orders` what was matched by this pair alone."""
    a, b = both(pair)
    in_order = a.shape == b.shape and all(_is_ordered(pair, side, known) for side in (WRITTEN, READ))
    if in_order and prod(a.shape) > BLOCK:
        found = measure(blocks((a, b)), a.shape[first_side((a, b))])
        return Layer(pair, found, test, grids=_grids(pair, found, None))
    x, y, moved = aligned(pair, known, {})
    found, unscaled = measure([(x, y)], len(x)), None
    if a.is_matrix and found.cosine < LIKELY and (own := rematched(pair, known)):
        orders |= own
        x, y, moved = aligned(pair, known, own)
        found = measure([(x, y)], len(x))
    if scales and a.is_matrix and found.change > SCALED and _has_other_scales(x, y):
        y_scaled = rescaled(x, y)
        scaled = measure([(x, y_scaled)], len(x))
        if scaled.change < found.change * LESS:
            found, unscaled, y = scaled, found.change, y_scaled
    turned = y if (moved or unscaled) and y.shape == a.shape else None
    return Layer(pair, found, test, moved, unscaled, _grids(pair, found, turned))


def _has_other_scales(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether scales of units explain most of the difference, judged by a part."""
    part = np.ix_(*(spread(n, SAMPLE) for n in x.shape))
    x, y = x[part], y[part]
    return bool(np.linalg.norm(x - rescaled(x, y)) < LESS * np.linalg.norm(x - y))


def _grids(pair: Pair, found: Difference, moved: np.ndarray | None) -> tuple[Grid | None, Grid | None]:
    """The grids of both; that of b in the order of a, since blocks that share a scale do not survive permutation."""
    a, b = both(pair)
    if not a.is_matrix or not EXACT < found.change < ROUNDED:
        return None, None
    of_b = find_grid(b.tensor)
    if of_b is None and moved is not None:
        of_b = grid_of(a.stored(moved))
    return find_grid(a.tensor), of_b


def _is_ordered(pair: Pair, side: int, known: Known) -> bool:
    matching = matching_of(pair, side, known)
    return matching is None or matching.ordered
