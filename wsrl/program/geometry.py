"""Where windows lie on a map, of convolutions and of pooling, by what operations tell of them."""

from dataclasses import dataclass

from wsrl.wiring.wiring import Operation, Value

Pair = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """Windows on a map; see `wsrl.program.layers`.

    Attributes:
      grid: (height, width) of what the windows return.
      kernel: (height, width) of a window.
      stride, padding, origin: see `Link`.
    """

    grid: Pair
    kernel: Pair
    stride: int
    padding: int
    origin: Pair = (0, 0)


def windowed(grid: Pair, kernel: Pair, stride: int, padding: int) -> Placement:
    """Windows with the same padding on all sides."""
    height, width = ((n + 2 * padding - k) // stride + 1 for n, k in zip(grid, kernel, strict=True))
    return Placement((height, width), kernel, stride, padding)


def told_placement(operation: Operation, kernel: Pair, grid: Pair) -> Placement | None:
    """Windows of a convolution on a map of a grid, by its facts; None where they do not tell.

    Raises:
      ValueError: they are of a form that is not run.
    """
    facts = operation.facts
    if "stride" not in facts:
        return None
    for name in ("groups", "dilation"):
        if name in facts and facts[name].value not in (1, (1, 1)):
            raise ValueError(f"the {name} of {operation.name} are not run")
    padding = facts["padding"].value if "padding" in facts else (0, 0, 0, 0)
    return _placed(operation.name, kernel, facts["stride"].value, padding, grid)


def pooled_placement(operation: Operation, grid: Pair) -> Placement | None:
    """Windows of the pooling after an operation; None where there are none, or where they are the whole map.

    Raises:
      ValueError: the pooling is of a form that is not run.
    """
    facts = operation.facts
    pooling = facts["pooling"].value if "pooling" in facts else None
    if pooling in (None, "global average"):
        return None
    if pooling not in ("max", "average") or "window" not in facts:
        raise ValueError(f"the pooling after {operation.name} cannot be run")
    kernel, padding = facts["window"].value, facts["pooling_padding"].value
    if not (isinstance(kernel, tuple) and len(kernel) == 2):
        raise ValueError(f"the pooling after {operation.name} is not that of images")
    height, width = kernel
    placed = _placed(operation.name, (height, width), facts["pooling_stride"].value, padding, grid)
    if pooling == "average" and placed != windowed(grid, placed.kernel, placed.stride, 0):
        raise ValueError(f"the padding of the mean after {operation.name} cannot be run")
    return placed


def _placed(name: str, kernel: Pair, stride: Value, padding: Value, grid: Pair) -> Placement:
    """Windows with (before, before, after, after) of padding, in the order (y, x); or `same` or `valid`."""
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    if len(steps) != 2 or steps[0] != steps[1] or not isinstance(steps[0], int) or steps[0] < 1:
        raise ValueError(f"the stride of {name} cannot be run")
    step = steps[0]
    if isinstance(padding, str) and padding.startswith("same"):
        sides = [max((-(-n // step) - 1) * step + k - n, 0) for n, k in zip(grid, kernel, strict=True)]
        upper = padding != "same_lower"
        before = [side // 2 if upper else -(-side // 2) for side in sides]
        around = (*before, *(side - b for side, b in zip(sides, before, strict=True)))
    elif padding == "valid":
        around = (0, 0, 0, 0)
    elif isinstance(padding, tuple) and len(padding) == 4:
        around = padding
    else:
        raise ValueError(f"the padding of {name} cannot be run")
    top, left, bottom, right = around
    height, width = (
        (n + before + after - k) // step + 1
        for n, k, before, after in zip(grid, kernel, (top, left), (bottom, right), strict=True)
    )
    most = max(top, left)
    return Placement((height, width), kernel, step, most, (most - top, most - left))
