"""Random members of the symmetries that a wiring names: if it is true, none of them changes what the network computes.

`permuted` moves the units of groups, `rescaled` multiplies them by factors, `mixed` acts on the heads of products.
"""

from collections.abc import Collection, Mapping
from math import prod

import numpy as np
from jaxtyping import Float, Float64, Int

from wsrl.wiring.wiring import Product, Segment, Slice, Wiring

Arrays = Mapping[str, Float[np.ndarray, "..."]]


def permuted(
    tensors: Arrays, wiring: Wiring, seed: int, groups: Collection[str] | None = None
) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the tensors after a random permutation of every permutable group, in which no unit keeps its place.

    Args:
      tensors: all that the wiring names; not changed.
      seed: decides on the permutations; that of a group does not depend on `groups`.
      groups: permute only these.
    """
    rng = np.random.default_rng(seed)
    orders = {name: _cycle(rng, group.size) for name, group in wiring.groups.items() if group.permutable}
    if groups is not None:
        orders = {name: order for name, order in orders.items() if name in groups}

    return reordered(tensors, wiring, orders)


def reordered(
    tensors: Arrays, wiring: Wiring, orders: Mapping[str, Int[np.ndarray, "size"]]
) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the tensors with the units of some groups in another order: unit i is the one that was at `order[i]`.

    Args:
      tensors: all that the wiring names; not changed.
      orders: of groups, by their names.
    """

    def places(s: Segment) -> Int[np.ndarray, "outer size inner"]:
        own = np.arange(s.length).reshape(s.outer, s.size, s.inner)
        order = orders.get(s.group or "")
        return own if order is None else own[:, order]

    moved = {}
    for name, tensor in tensors.items():
        for axis, segments in enumerate(wiring.axes[name]):
            if segments is not None and any(s.group in orders for s in segments):
                starts = np.cumsum([0, *(s.length for s in segments[:-1])])
                index = [start + places(s).ravel() for start, s in zip(starts, segments, strict=True)]
                tensor = np.take(tensor, np.concatenate(index), axis)
        moved[name] = tensor
    return moved


def rescaled(
    tensors: Arrays, wiring: Wiring, seed: int, groups: Collection[str] | None = None, largest: float = 4.0
) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the tensors after the units of every group with a scale are multiplied by random factors.

    Args:
      tensors: all that the wiring names; not changed. The products have the type that NumPy gives them with float64.
      seed: decides on the factors; those of a group do not depend on `groups`.
      groups: scale only these.
      largest: positive factors are log-uniform in [1 / largest, largest].
    """
    rng = np.random.default_rng(seed)
    drawn = {name: _factors(rng, group.size, group.scale, largest) for name, group in wiring.groups.items()}
    factors = {name: drawn[name] for name in drawn if groups is None or name in groups}

    def along(s: Segment) -> Float64[np.ndarray, "outer size inner"]:
        shape = (s.outer, s.size, s.inner)
        return np.broadcast_to(factors[s.group][:, None] ** s.power if s.group in factors else 1.0, shape)

    scaled = {}
    for name, tensor in tensors.items():
        for axis, segments in enumerate(wiring.axes[name]):
            if segments is not None and any(s.power and s.group in factors for s in segments):
                vector = np.concatenate([along(s).ravel() for s in segments])
                tensor = tensor * vector.reshape(-1, *[1] * (tensor.ndim - axis - 1))
        scaled[name] = tensor
    return scaled


def mixed(
    tensors: Arrays, wiring: Wiring, seed: int, products: Collection[Product] | None = None, largest: float = 1.0
) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the tensors after a random member of GL(dim), of condition 4 at most, acts on every head.

    The left matrix of a head is multiplied by the member, the right one by its inverse transposed.

    Args:
      tensors: all that the wiring names; not changed.
      seed: decides on the members; those of a product do not depend on `products`.
      products: mix only these.
      largest: members are scaled by a factor a head, log-uniform in [1 / largest, largest].
    """
    rng = np.random.default_rng(seed)
    changed = dict(tensors)
    for product in wiring.products:
        rotations = np.linalg.qr(rng.standard_normal((2, product.heads, product.dim, product.dim)))[0]
        member = rotations[0] * rng.uniform(0.5, 2.0, (product.heads, 1, product.dim)) @ rotations[1]
        member *= np.exp(rng.uniform(-np.log(largest), np.log(largest), (product.heads, 1, 1)))
        if products is not None and product not in products:
            continue
        inverse = np.linalg.inv(member).transpose(0, 2, 1)
        sides = (
            (product.left, 1, member),
            (product.left_bias, 1, member),
            (product.right, product.repeat, inverse),
            (product.right_bias, product.repeat, inverse),
        )
        for part, repeat, matrices in sides:
            if part is not None:
                changed[part.tensor] = _multiplied(changed[part.tensor], part, repeat, matrices)
    return changed


def _cycle(rng: np.random.Generator, size: int) -> Int[np.ndarray, "size"]:
    """A random permutation that is one cycle."""
    cycle, order = rng.permutation(size), np.empty(size, np.int64)
    order[cycle] = np.roll(cycle, 1)
    return order


def _factors(rng: np.random.Generator, size: int, scale: str, largest: float) -> Float64[np.ndarray, "size"]:
    if scale == "positive":
        return np.exp(rng.uniform(-np.log(largest), np.log(largest), size))
    return rng.choice([-1.0, 1.0], size) if scale == "sign" else np.ones(size)


def _multiplied(
    tensor: np.ndarray, part: Slice, repeat: int, matrices: Float64[np.ndarray, "heads dim dim"]
) -> np.ndarray:
    """Multiplies the rows [dim] of each head; a slice longer than its axis goes on over the axes after it."""
    last = part.axis + 1
    while prod(tensor.shape[part.axis : last]) < part.stop:
        last += 1
    view = tensor.reshape(prod(tensor.shape[: part.axis]), -1, prod(tensor.shape[last:])).astype(np.float64)
    heads, dim, _ = matrices.shape
    own = view[:, part.start : part.stop].reshape(len(view), heads, repeat, dim, -1)
    view[:, part.start : part.stop] = np.einsum("bhrda,hde->bhrea", own, matrices).reshape(len(view), -1, view.shape[2])
    return view.reshape(tensor.shape)
