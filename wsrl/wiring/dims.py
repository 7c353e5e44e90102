"""Dimensions of neurons and how they are tied.

A `Dim` is a number of units that lie along some axis. Dims that must be permuted together are tied; ties may have
structure: a dim may be `outer x base x inner` entries of a smaller one (heads of attention, gates of an LSTM, maps that
were flattened), so that only permutations of the base are left. Ties form a union-find forest whose links carry the two
factors.

Tying too much is safe: a permutation that acts on two groups alike is a symmetry if both are. Tying too little is not.
So whatever is ambiguous is tied, and what is not understood is fixed.
"""

from collections.abc import Iterable, Sequence
from math import gcd, lcm

Value = tuple["Dim", ...]  # what flows between layers: dims that lie one after the other


class Dim:
    """Units along an axis.

    Attributes:
      size: entries.
      role: `input`, `hidden` or `output`; of roots.
      fixed: whether the order of the units matters or is not understood; of roots.
    """

    __slots__ = ("fixed", "inner", "outer", "parent", "role", "size")

    def __init__(self, size: int, role: str = "hidden", fixed: bool = False):
        self.size = size
        self.role = role
        self.fixed = fixed
        self.parent: Dim | None = None
        self.outer = self.inner = 1

    def find(self) -> tuple["Dim", int, int]:
        """Returns the root and the (outer, inner) factors that lead to it."""
        node, outer, inner = self, 1, 1
        while node.parent is not None:
            outer, inner = outer * node.outer, inner * node.inner
            node = node.parent
        return node, outer, inner

    @property
    def permutable(self) -> bool:
        """Whether a permutation of two units or more is left."""
        root = self.find()[0]
        return not root.fixed and root.role == "hidden" and root.size > 1


def view(base: Dim, outer: int = 1, inner: int = 1) -> Dim:
    """Returns a dim of outer x base x inner entries."""
    dim = Dim(outer * base.size * inner)
    dim.parent, dim.outer, dim.inner = base, outer, inner
    return dim


def tie(a: Dim, b: Dim) -> None:
    """Makes two dims of one size permute alike, on the finest structure that both allow."""
    if a.size != b.size:
        raise ValueError(f"dims of {a.size} and {b.size} units cannot be tied")
    (root_a, outer_a, inner_a), (root_b, outer_b, inner_b) = a.find(), b.find()
    if root_a is root_b:
        if (outer_a, inner_a) != (outer_b, inner_b):
            root_a.fixed = True
        return
    outer, inner = lcm(outer_a, outer_b), lcm(inner_a, inner_b)
    if a.size % (outer * inner):
        root_a.fixed = root_b.fixed = True
        return
    shared = Dim(a.size // (outer * inner))
    shared.fixed = root_a.fixed or root_b.fixed
    shared.role = min(root_a.role, root_b.role, key=("input", "output", "hidden").index)
    for root, own_outer, own_inner in ((root_a, outer_a, inner_a), (root_b, outer_b, inner_b)):
        root.parent, root.outer, root.inner = shared, outer // own_outer, inner // own_inner


def fix(values: Sequence[Dim]) -> None:
    """Says that the order of these units is not understood."""
    for dim in values:
        dim.find()[0].fixed = True


def mark(values: Sequence[Dim], role: str) -> None:
    """Says that these units are inputs or outputs of the network."""
    for dim in values:
        root = dim.find()[0]
        if root.role == "hidden":
            root.role = role


def size_of(value: Value) -> int:
    """Entries of a value."""
    return sum(dim.size for dim in value)


def tie_values(a: Value, b: Value) -> None:
    """Ties two values of one size; where they are cut differently, in blocks of the longest length that fits both."""
    if [d.size for d in a] == [d.size for d in b]:
        for x, y in zip(a, b, strict=True):
            tie(x, y)
    else:
        in_blocks((a, b), ())


def in_blocks(values: Iterable[Value], sizes: Iterable[int]) -> Dim:
    """Ties values in blocks of the longest length that divides all their dims and some further sizes.

    Returns:
      The units of a block: fixed, as are the values, where no length but 1 divides all.
    """
    dims = [dim for value in values for dim in value]
    base = Dim(gcd(*(dim.size for dim in dims), *sizes))
    if base.size == 1:
        fix(dims)
    for dim in dims:
        tie(dim, view(base, outer=dim.size // base.size))
    return base
