"""Separable attention (Mehta and Rastegari, MobileViTv2, 2022): one score a place, no heads.

Of the fused rows the first are the scores, [1 + keys + values, in]. A context vector, the sum of keys weighted by the
scores, is multiplied with the values entry by entry, so keys, values and what the output projection reads are one.
"""

from wsrl.wiring.attention_roles import fan_in, units
from wsrl.wiring.dims import Dim, Value
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.wiring import Fact


def is_separable(parts: dict[str, Node]) -> bool:
    """Whether fused rows hold one score beside keys and values of the width that the output projection reads."""
    return parts.keys() == {"qkv", "o"} and units(parts["qkv"]) == 1 + 2 * fan_in(parts["o"])


def wire_separable(flow: Flow, parts: dict[str, Node], read: Value) -> Value:
    """Says what the projections read and return; returns the result."""
    fused, out = parts["qkv"], parts["o"]
    inner, result = Dim(fan_in(out)), (Dim(units(out)),)
    for leaf, taken, made in ((fused, read, (Dim(1), inner, inner)), (out, (inner,), result)):
        axis = (len(leaf.weight) - 1, len(leaf.weight) - 2) if leaf.transposed else (0, 1)
        flow.writes(leaf.tensors["weight"][0], axis[0], made)
        flow.reads(leaf.tensors["weight"][0], axis[1], taken)
        flow.writes_vectors(leaf, made)
        flow.note(leaf, "attention", taken, made, facts={"part": Fact("qkv" if leaf is fused else "o", "names")})
    return result
