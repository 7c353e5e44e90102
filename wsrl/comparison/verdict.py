"""The verdict on two checkpoints from what was measured of their tensors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from wsrl.comparison.chain import both
from wsrl.comparison.difference import Difference
from wsrl.comparison.grid import CODED_ERRORS
from wsrl.comparison.growth import growth
from wsrl.comparison.layer import Layer
from wsrl.comparison.matching import Agreement
from wsrl.comparison.relation import Kind, LayerRelation, Relation

DOUBT = 0.01  # p-value below which networks are not called unrelated, though they are not proven related
EXACT = 1e-5  # change that the arithmetic of a conversion makes
UNSCALED = 3e-5  # change that is left of units with other scales
NARROW = {"float16": 1e-3, "bfloat16": 3e-3}  # and where they were rounded, too
INDEPENDENT = 0.2  # cosine below which a tensor of a related network is taken for trained anew
PRUNED = 0.05  # share of the entries that are 0 in one network alone
CLEARED = 2.0  # mean square change of these entries, over that of the others
WHITE = 1.25  # largest singular value of noise, over its expectation
KURTOSIS = 0.25  # of white noise, about 3
UNROUNDED = 32  # bits
FEW = 8  # entries of a tensor that shows the size of noise
ENOUGH = 1000  # entries beyond which a tensor counts no more
MOST = 0.9  # of the entries
EVEN = 0.1  # spread of the size of noise over tensors, relative
LIMITS = ("distillation leaves no trace in weights: a student of the other network counts as unrelated",)
SHUFFLED = "of a group of units, tensors stand in different orders: not the same network"
TOO_SMALL = "the networks are too small, or too little of them corresponds, for a test"


def judge(layers: Sequence[Layer], pooled: Agreement, related: bool) -> Relation:
    """Returns the relation that the measurements show.

    Args:
      layers: of all pairs of tensors.
      pooled: units that agree over all groups.
      related: whether they agree more than those of independent networks.

    Raises:
      CheckpointError: a tensor holds NaN or Inf, or cannot be read.
    """
    described = [_describe(layer) for layer in layers]
    relations = tuple(relation for relation, _ in described)
    told = f"{pooled.equal:,} of {pooled.units:,} units agree"
    if not related and not pooled.units:
        common = any(layer.pair.a is not None and layer.pair.b is not None for layer in layers)
        kind, reason = (Kind.UNKNOWN, TOO_SMALL) if common else (Kind.UNRELATED, "no tensors correspond in shape")
        return Relation(kind, None, relations, False, (reason,), LIMITS)
    if not related:
        kind, more = (Kind.UNRELATED, ()) if pooled.p_value > DOUBT else (Kind.UNKNOWN, (TOO_SMALL,))
        return Relation(kind, pooled.p_value, relations, False, (told, *more), LIMITS)
    kind, reasons, derived, bits = _kind(layers, described)
    told = told if pooled.units else "all matrices agree entry by entry; they are too small for a test of their units"
    p_value = pooled.p_value if pooled.units else None
    return Relation(kind, p_value, relations, True, (told, *reasons), LIMITS, derived, bits)


Described = tuple[LayerRelation, str | None]  # with the side that was made from the other, if that shows


def _describe(layer: Layer) -> Described:
    a, b = layer.pair.a, layer.pair.b
    base = LayerRelation(a.name if a else None, b.name if b else None, "independent")
    if a is None or b is None:
        return replace(base, what="only in b" if a is None else "only in a"), None
    base = replace(base, p_value=layer.test.p_value if layer.test else None)
    found = layer.difference
    if found is None:
        return base, None
    rank = found.rank if a.is_matrix else None
    base = replace(base, change=layer.unscaled or found.change, rank=rank, reordered=layer.moved)
    what, derived, bits = _what(layer, found)
    return replace(base, what=what, bits=bits), derived


def _what(layer: Layer, found: Difference) -> tuple[str, str | None, float | None]:
    """What one tensor is to the other, which side was made from the other, and bits of a grid."""
    a = both(layer.pair)[0]
    if layer.shuffled:
        return "shuffled", None, None
    if found.change <= (EXACT if layer.unscaled is None else _rounding(layer)):
        return "equal" if layer.unscaled is None else "scaled", None, None
    if found.rounded_a or found.rounded_b:
        return "rounded", None if found.rounded_a and found.rounded_b else "a" if found.rounded_a else "b", None
    if coded := _quantized(layer, found):
        return "quantized", *coded
    if pruned := _pruned(found):
        return "pruned", pruned, None
    if a.is_matrix and found.cosine < INDEPENDENT:
        return "independent", None, None
    if a.is_matrix and found.rank is not None:
        return "low rank", None, None
    return "noise" if _is_white(found) else "changed", None, None


def _pruned(found: Difference) -> str | None:
    """The side of which entries were set to 0, if one is.

    A quantizer sets small entries to 0 too, but these then change no more than all others do.
    """
    of_a, of_b = ("a", found.zeros_a, found.cleared_a), ("b", found.zeros_b, found.cleared_b)
    side, zeros, cleared = of_a if found.zeros_a > found.zeros_b else of_b
    others = (found.squares - cleared) / max(found.entries - zeros, 1)
    return side if zeros > PRUNED * found.entries and cleared > CLEARED * others * zeros else None


def _rounding(layer: Layer) -> float:
    """Change that is left of units with other scales, by the types in which both are stored."""
    return max(NARROW.get(piece.tensor.dtype, UNSCALED) for piece in both(layer.pair))


def _quantized(layer: Layer, found: Difference) -> tuple[str | None, float] | None:
    """The side on the coarser grid and its bits, if the difference is no larger than rounding to the grids makes it."""
    own = [grid for grid in layer.grids if grid is not None]
    if not own or found.change > sum(grid.error for grid in own):
        return None
    bits = [grid.bits if grid else UNROUNDED for grid in layer.grids]
    derived = None if bits[0] == bits[1] else "a" if bits[0] < bits[1] else "b"
    return derived, float(min(bits))


def _is_white(found: Difference) -> bool:
    spread = 6 * np.sqrt(24 / found.entries)
    white = found.structure is None or found.structure < WHITE
    return bool(white and abs(found.kurtosis - 3) < spread + KURTOSIS)


def _kind(
    layers: Sequence[Layer], described: Sequence[Described]
) -> tuple[Kind, tuple[str, ...], str | None, float | None]:
    """The kind, what speaks for it, the side that was made from the other, and bits."""
    entries = Counter[str]()
    for layer, (relation, _) in zip(layers, described, strict=True):
        if layer.pair.a is not None and layer.pair.b is not None:
            entries[relation.what] += layer.pair.a.tensor.size
    whats = [relation.what for relation, _ in described]
    matrices = [
        (layer, relation)
        for layer, (relation, _) in zip(layers, described, strict=True)
        if any(piece is not None and piece.is_matrix for piece in (layer.pair.a, layer.pair.b))
    ]
    told = [f"{count} tensors {what}" for what, count in Counter(whats).most_common()]
    reasons = (", ".join(told),)
    if any(relation.reordered for relation, _ in described):
        reasons += ("units stand in another order",)
    if any(layer.shuffled for layer in layers):
        return Kind.FINE_TUNED, (*reasons, SHUFFLED), None, None
    more = growth(layers)
    if more.kind is not None:
        return more.kind, (*reasons, more.reason), more.derived, None
    changed = {relation.what for _, relation in matrices} - {"equal", "rounded", "only in a", "only in b"}
    derived = {side for relation, side in described if side is not None}
    side = derived.pop() if len(derived) == 1 else None
    scales = any(layer.unscaled is not None for layer, _ in matrices)  # then vectors cannot be compared
    if scales:
        reasons += ("units have other scales",)
        changed -= {"scaled"}
    folded = _vectors(layers, 0) != _vectors(layers, 1)  # norms, into the weights before them
    vectors = (
        set()
        if scales or folded
        else {r.what for layer, (r, _) in zip(layers, described, strict=True) if _counts(layer)}
    )
    vectors -= {"equal", "rounded", "only in a", "only in b", *changed}
    if not more.alike:
        return Kind.FINE_TUNED, (*reasons, "some layers of one have no counterpart in the other"), None, None
    if not changed and not vectors:
        moved = any(relation.reordered for relation, _ in described)
        return Kind.SAME_SYMMETRY if moved or scales else Kind.SAME_WEIGHTS, reasons, side, None
    quantized = [r for _, r in matrices if r.what == "quantized"]
    bits = min((r.bits for r in quantized if r.bits), default=0.0)
    others = [r.change or 0 for r, _ in described if r.what in changed | vectors and r.what != "quantized"]
    if quantized and max(others, default=0.0) <= CODED_ERRORS.get(int(bits), 0.0):
        weights = [layer.pair.a.tensor.size for layer, r in matrices if r.what == "quantized" and layer.pair.a]
        bits = float(np.average([r.bits or UNROUNDED for r in quantized], weights=weights))
        return Kind.SAME_PRECISION, (*reasons, f"rounded to {bits:.2g} bits"), side, bits
    if entries["pruned"] > sum(entries.values()) / 4:
        return Kind.PRUNED, reasons, side, None
    if changed == {"low rank"} and not vectors:
        ranks = {relation.rank for _, relation in matrices if relation.rank is not None}
        return Kind.ADAPTER, (*reasons, f"the difference has rank {max(ranks)} at most"), None, None
    if changed and "independent" not in changed and _is_noise(layers, scales):
        return Kind.NOISE, (*reasons, "the difference is white and of one relative size"), None, None
    return Kind.FINE_TUNED, reasons, None, None


def _counts(layer: Layer) -> bool:
    """Whether a change of the tensor is one of the network: converters compute constants anew, single numbers."""
    pieces = [piece for piece in (layer.pair.a, layer.pair.b) if piece is not None]
    return any(piece.role is not None or piece.tensor.size > 1 for piece in pieces)


def _vectors(layers: Sequence[Layer], side: int) -> int:
    """The number of vectors of one side."""
    pieces = [(layer.pair.a, layer.pair.b)[side] for layer in layers]
    return sum(piece is not None and not piece.is_matrix for piece in pieces)


def _is_noise(layers: Sequence[Layer], scales: bool) -> bool:
    """Whether all tensors differ by white noise whose size follows that of the entries, or is the same everywhere."""
    own = [
        (layer.difference, layer.difference.entries)
        for layer in layers
        if layer.difference is not None
        and layer.difference.squares
        and layer.difference.entries >= FEW
        and (both(layer.pair)[0].is_matrix or not scales)
    ]
    if not own:
        return False
    weights = np.array([n for _, n in own], np.float64)
    white = np.array([_is_white(d) for d, _ in own])
    if (weights * white).sum() < MOST * weights.sum():
        return False
    relative = np.array([d.deviation for d, _ in own])
    absolute = np.array([np.sqrt(d.squares / d.entries) for d, _ in own])
    return bool(min(_unevenness(x, weights) for x in (relative, absolute)) < EVEN)


def _unevenness(sizes: Float[np.ndarray, "n"], weights: Float[np.ndarray, "n"]) -> float:
    """Relative spread of sizes beyond what estimating them from so many entries gives."""
    weights = np.minimum(weights, ENOUGH)
    mean = np.average(sizes, weights=weights)
    expected = np.average(1 / (2 * weights), weights=weights)
    variance = np.average(np.square(sizes / mean - 1), weights=weights)
    return float(np.sqrt(max(variance - 3 * expected, 0.0)))
