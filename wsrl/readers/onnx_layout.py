"""Operators of ONNX that change the layout of what they read and no number: https://onnx.ai/onnx/operators."""

from collections.abc import Mapping
from math import prod

LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def layout_step(node: dict, shape: tuple[int, ...], numbers: Mapping[str, object]) -> tuple | None:
    """Returns the Transpose or Reshape that does the same as a node: `("Transpose", order)` or `("Reshape", shape)`.

    Args:
      node: of one of the operators LAYOUT.
      shape: of what it reads.
      numbers: values of small integer constants by name.

    Returns:
      None if the settings of the node are not known.
    """
    attributes, inputs = node["attributes"], node["inputs"]
    settings = _integers(numbers.get(inputs[1]) if len(inputs) > 1 else attributes.get("axes"))
    ndim = len(shape)
    match node["op"]:
        case "Transpose":
            return "Transpose", tuple(_integers(attributes.get("perm")) or range(ndim)[::-1])
        case "Reshape":
            target = _integers(numbers.get(inputs[1])) if len(inputs) > 1 else attributes.get("shape")
            result = [shape[i] if n == 0 and i < ndim else n for i, n in enumerate(_integers(target) or ())]
            if result.count(-1) == 1:
                known = -prod(result)
                result[result.index(-1)] = prod(shape) // known if known else 0
            return ("Reshape", tuple(result)) if target is not None else None
        case "Squeeze":
            axes = [a % ndim for a in settings] if settings else [i for i, n in enumerate(shape) if n == 1]
            return "Reshape", tuple(n for i, n in enumerate(shape) if i not in axes)
        case "Unsqueeze" if settings:
            rank = ndim + len(settings)
            rest = iter(shape)
            ones = [a % rank for a in settings]
            return "Reshape", tuple(1 if i in ones else next(rest) for i in range(rank))
        case "Flatten":
            axis = attributes.get("axis", 1)
            axis = axis % ndim if isinstance(axis, int) and axis < 0 and ndim else axis
            return ("Reshape", (prod(shape[:axis]), prod(shape[axis:]))) if isinstance(axis, int) else None
    return None


def _integers(value: object) -> list[int] | None:
    if isinstance(value, int):
        return [value]
    return [int(n) for n in value] if isinstance(value, list | tuple) and all(type(n) is int for n in value) else None
