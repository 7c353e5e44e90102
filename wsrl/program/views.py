"""How the tensors of an operation hold the weights of layers."""

from math import prod

from wsrl.program.layers import Norm, View
from wsrl.wiring.wiring import Operation, Wiring


def one_view(operation: Operation, wiring: Wiring, role: str = "bias") -> View | None:
    """View of a tensor with one value a unit; None where the operation has none of the role."""
    tensor = operation.tensors.get(role)
    if tensor is None:
        return None
    (units,) = wiring.shapes[tensor]
    return View(tensor, (("out",),), {"out": units})


def biases(operation: Operation, wiring: Wiring, *roles: str) -> tuple[View, ...]:
    """Views of the biases of some roles, of those that there are."""
    return tuple(view for role in roles or ("bias",) if (view := one_view(operation, wiring, role)))


def norm_of(operation: Operation, wiring: Wiring) -> Norm:
    """The tensors of a batch or layer norm.

    Raises:
      ValueError: it has others, or its epsilon is not known.
    """
    if extra := operation.tensors.keys() - {"gain", "shift", "mean", "variance", "count"}:
        raise ValueError(f"{operation.name} has more than a norm does: {min(extra)}")
    epsilon = operation.facts["epsilon"].value
    if not isinstance(epsilon, float):
        raise ValueError(f"{operation.name} has no epsilon")
    views = (one_view(operation, wiring, role) for role in ("gain", "shift", "mean", "variance"))
    return Norm(*views, epsilon=epsilon)


def weight_view(
    operation: Operation, wiring: Wiring, flatten: tuple[int, int] | None = None, role: str = "weight"
) -> View:
    """View of the weight of a convolution, or of a dense layer that reads a map of the grid `flatten`.

    Raises:
      ValueError: it is neither a matrix nor a kernel with two axes of taps that reads all units.
    """
    tensor = operation.tensors[role]
    shape = wiring.shapes[tensor]
    read, written = _axis(operation, tensor, "reads"), _axis(operation, tensor, "writes")
    if read == written or len(shape) not in (2, 4):
        raise ValueError(f"{tensor} is neither a matrix nor a kernel of two dimensions that reads all units")
    sizes = {"out": shape[written], "in": shape[read]}
    axes: list[tuple[str, ...]] = [()] * len(shape)
    axes[read], axes[written] = ("in",), ("out",)
    if len(shape) == 4:
        for name, axis in zip(("ky", "kx"), sorted({0, 1, 2, 3} - {read, written}), strict=True):
            axes[axis], sizes[name] = (name,), shape[axis]
    elif flatten is not None and prod(flatten) != 1:
        if sizes["in"] % prod(flatten):
            raise ValueError(f"{operation.name} reads {sizes['in']} numbers, not maps of {flatten[0]} x {flatten[1]}")
        sizes |= {"ky": flatten[0], "kx": flatten[1], "in": sizes["in"] // prod(flatten)}
        first = sizes["in"] > 1 and _channels_first(operation, wiring, tensor, read)
        axes[read] = ("in", "ky", "kx") if first else ("ky", "kx", "in")
    return View(tensor, tuple(axes), sizes)


def _axis(operation: Operation, tensor: str, side: str) -> int:
    axes = operation.axes_of(tensor, getattr(operation, side))
    if len(axes) != 1:
        raise ValueError(f"nothing tells which axis of {tensor} is which")
    return axes[0]


def _channels_first(operation: Operation, wiring: Wiring, tensor: str, axis: int) -> bool:
    """Whether channels vary slowest in what was flattened: as groups or a graph tell, or as is usual where weights are
    stored as [out, in] (PyTorch) or as [in, out] (Flax and Keras).
    """
    segments = wiring.axes[tensor][axis] or ()
    if len(segments) == 1 and segments[0].outer * segments[0].inner > 1:
        return segments[0].outer == 1
    if operation.source != "graph":
        return axis == 1
    before = [wiring.operations[i].facts.get("flattened") for i in operation.inputs]
    if len(before) != 1 or before[0] is None:
        raise ValueError(f"the order of what {operation.name} reads is not understood")
    return before[0].value == "channels first"


def heads_of(operation: Operation, wiring: Wiring) -> int | None:
    """Heads of a projection that has an axis for them (Flax, Keras)."""
    tensor = operation.tensors["weight"]
    side = operation.reads if operation.facts["part"].value == "o" else operation.writes
    axes = operation.axes_of(tensor, side)
    return wiring.shapes[tensor][axes[0]] if len(axes) == 2 else None


def projection(operation: Operation, wiring: Wiring, heads: int, part: int = 0) -> tuple[View, tuple[View, ...]]:
    """Views (weight, biases) of a projection of attention.

    Args:
      operation: its fact `part` is `q`, `k`, `v` or `qkv`, which write heads, or `o`, which reads them.
      wiring: of the operation.
      heads: of the attention.
      part: of a fused projection, 0 to 2.

    Raises:
      ValueError: the axes of the tensors do not tell, or do not hold so many heads.
    """
    tensor = operation.tensors["weight"]
    shape, role = wiring.shapes[tensor], operation.facts["part"].value
    own, other = (operation.axes_of(tensor, side) for side in (operation.writes, operation.reads))
    names, plain = ("heads", "dim"), "in"
    if role == "o":
        own, other, names, plain = other, own, ("heads_in", "dim_in"), "out"
    fused = 3 if role == "qkv" else 1
    entries = prod(shape[axis] for axis in own)
    if len(other) != 1 or len(own) not in (1, 2) or len(shape) != len(own) + 1 or entries % (fused * heads):
        raise ValueError(f"the heads of {operation.name} are not understood")
    sizes = {names[0]: heads, names[1]: entries // (fused * heads), plain: shape[other[0]]}
    split = (names[:1], names[1:]) if len(own) == 2 else (names,)
    if fused > 1:
        sizes, split = {"part": fused, **sizes}, (("part", *names),)
    axes: list[tuple[str, ...]] = [()] * len(shape)
    axes[other[0]] = (plain,)
    for axis, held in zip(own, split, strict=True):
        axes[axis] = held
    bias = operation.tensors.get("bias")
    if bias is None:
        return View(tensor, tuple(axes), sizes, part), ()
    vector = (one_view(operation, wiring),) if role == "o" else (View(bias, split, sizes, part),)
    return View(tensor, tuple(axes), sizes, part), tuple(view for view in vector if view)
