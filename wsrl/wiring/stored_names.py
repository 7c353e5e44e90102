"""A wiring in the names of the file, where tensors were put together from parts that the file stores.

Readers show the `weight` of a weight-normed layer, say; the file holds its direction and its gain. What is claimed of
the axes of the whole holds for the axes of its parts that are as long.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

Parts = Mapping[str, Mapping[str, tuple[int, ...]]]  # tensor -> its parts in the file -> their shapes


def with_stored_names(wiring: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """Returns the JSON form of a wiring with the parts of tensors in place of these.

    A part that has other axes than the whole, as the singular vectors of spectral norm, would have to be permuted with
    it in a way that is not worked out: the groups of such a tensor are not claimed.

    Args:
      wiring: as `Wiring.to_json` returns it; left as it is.
      parts: of tensors that are not in the file, see `wsrl.readers.parametrized.effective`.
    """
    if not parts:
        return wiring
    tensors: dict[str, Any] = {}
    frozen: set[str] = set()
    for name, tensor in wiring["tensors"].items():
        for part, shape in parts.get(name, {name: tuple(tensor["shape"])}).items():
            axes: list = [None] * len(shape)
            if len(shape) == len(tensor["shape"]):
                sizes = zip(shape, tensor["shape"], tensor["axes"], strict=True)
                axes = [axis if size == whole else None for size, whole, axis in sizes]
            else:
                frozen |= {segment["group"] for axis in tensor["axes"] for segment in axis or () if segment["group"]}
            tensors[part] = {"shape": list(shape), "axes": axes}
    groups = {
        name: group | {"permutable": group["permutable"] and name not in frozen}
        for name, group in wiring["groups"].items()
    }
    return wiring | {"tensors": tensors, "groups": groups}


def with_whole_names(wiring: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """Undoes `with_stored_names`, but for groups that it does not claim: a tensor has the axes of its largest part."""
    tensors = dict(wiring.get("tensors", {}))
    for name, shapes in parts.items():
        alike = {part: shape for part, shape in shapes.items() if part in tensors and len(shape) > 1}
        if alike and name not in tensors:
            largest = max(alike, key=lambda part: prod(alike[part]))
            tensors[name] = tensors[largest]
            for part in shapes:
                tensors.pop(part, None)
    return wiring | {"tensors": tensors}
