"""Compares two checkpoints by their weights: whether they are related, how, and which layers come from where.

Tensors are paired by their values, or by the order in which data flows. First the units are taken in the order in which
they stand: independent networks have no reason to agree in it. If they do not agree, units are matched through the
layers, forwards and backwards, and the two matchings have to agree (see `wsrl.comparison.chain`). Only related networks
are then compared entry by entry.
"""

import filecmp
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.chain import Chains, Known, aligned, both, groups_of, matching_of, rematched, rescaled
from wsrl.comparison.difference import Difference, measure
from wsrl.comparison.formula import is_formula
from wsrl.comparison.grid import Grid, find_grid, grid_of
from wsrl.comparison.layer import Layer
from wsrl.comparison.matching import SMALLEST, Agreement, Matching, fixed_points
from wsrl.comparison.pairing import SAMPLE, Pair, Sampled, pair_up
from wsrl.comparison.pieces import BLOCK, blocks, cut, spread
from wsrl.comparison.relation import Kind, Relation
from wsrl.comparison.verdict import judge
from wsrl.readers import open_checkpoint
from wsrl.signature.digest import content_digest

SIGNIFICANT = 1e-5  # p-value below which networks are related
AGREEING = 0.5  # share of the units of a tensor that stand in the same order, from which that is taken for right
NEAR, ENTRIES = 0.9999, 16  # cosine of small tensors that are the same, and entries of all of them
FEATURES = 4  # entries of a unit that is tested
SCALED = 1e-3  # change from which on other scales of units are reckoned with
EXACT, ROUNDED = 1e-5, 0.8  # changes between which a quantizer's lie
LESS = 0.5  # of the change that is left if units have other scales

Source = str | Path | Checkpoint


def compare(a: Source, b: Source) -> Relation:
    """Compares two checkpoints by their weights alone.

    Args:
      a, b: files, folders or `hf://owner/name`, or opened checkpoints. Metadata of a checkpoint may hold hints
        (`activation`, `heads`), as for an index.

    Returns:
      The relation. It is the same for (b, a) but for the names of the sides.

    Raises:
      CheckpointError: one of them cannot be used.
    """
    if _same_file(a, b):
        return Relation(Kind.SAME_FILE, related=True, reasons=("all bytes are the same",))
    first, second = (source if isinstance(source, Checkpoint) else open_checkpoint(source) for source in (a, b))
    sampled = [Sampled.of(cut(checkpoint)) for checkpoint in (first, second)]
    pairs = pair_up(*sampled)
    tests, pooled = _in_order(pairs)
    related = _significant(tests, pooled)
    if not related and not _significant(tests, Agreement(pooled.units, pooled.units)):
        related = _near(pairs)  # so few units that the test could not show it
    known = _proven(pairs, tests) if related else {}
    if not related or not all(_explained(pair, test) for pair, test in zip(pairs, tests, strict=True)):
        chains = Chains([pair for pair in pairs if pair.a and pair.b and pair.a.is_matrix], known)
        chains.run()
        own = chains.agreements()
        matched = sum(own.values(), Agreement(0, 0))
        if not related and _significant(list(own.values()), matched):
            related, pooled, known = True, matched, chains.joined(own)
            tests = _of_pairs(pairs, own)
        elif related:
            known = chains.joined({groups: test for groups, test in own.items() if test.share > AGREEING})
        elif not pooled.units:
            pooled = matched
    return judge(list(_layers(pairs, known if related else None, tests)), pooled, related)


def _near(pairs: list[Pair]) -> bool:
    """Whether matrices of too few units for a test agree entry by entry, as training anew would not make them."""
    matrices = [pair for pair in pairs if any(piece is not None and piece.is_matrix for piece in (pair.a, pair.b))]
    entries = sum(pair.a.tensor.size for pair in matrices if pair.a is not None)
    return entries >= ENTRIES and all(pair.cosine > NEAR for pair in matrices)


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


def _same_file(a: Source, b: Source) -> bool:
    """Whether both are files, or folders, of the same bytes."""
    if isinstance(a, Checkpoint) or isinstance(b, Checkpoint):
        return False
    paths = Path(a), Path(b)
    try:
        if all(path.is_file() for path in paths):
            return filecmp.cmp(*paths, shallow=False)
    except OSError as error:
        raise CheckpointError(error.filename or a, f"cannot be read ({error.strerror})", "check the file") from error
    return all(path.is_dir() for path in paths) and content_digest(paths[0]) == content_digest(paths[1])


def _significant(tests: Sequence[Agreement | None], pooled: Agreement) -> bool:
    """Whether all groups together, or one of them, agree more than independent networks do (Bonferroni)."""
    values = [pooled.p_value, *(test.p_value for test in tests if test is not None)]
    return min(values) * len(values) < SIGNIFICANT


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


def _layers(pairs: list[Pair], known: Known | None, tests: list[Agreement | None]) -> Iterator[Layer]:
    for pair, test in zip(pairs, tests, strict=True):
        if pair.a is None or pair.b is None or known is None:
            yield Layer(pair, None, test)
        else:
            yield _layer(pair, known, test)


def _layer(pair: Pair, known: Known, test: Agreement | None) -> Layer:
    a, b = both(pair)
    in_order = a.shape == b.shape and all(_is_ordered(pair, side, known) for side in (0, 1))
    if in_order and prod(a.shape) > BLOCK:
        found = measure(blocks((a, b)), a.shape[0])
        return Layer(pair, found, test, grids=_grids(pair, found, None))
    x, y, moved = aligned(pair, known, {})
    found, unscaled = measure([(x, y)], len(x)), None
    if a.is_matrix and found.cosine < AGREEING and (own := rematched(pair, known)):
        x, y, moved = aligned(pair, known, own)
        found = measure([(x, y)], len(x))
    if a.is_matrix and found.change > SCALED and _has_other_scales(x, y):
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
