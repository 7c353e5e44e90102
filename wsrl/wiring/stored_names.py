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

    The two vectors of spectral norm lie along one axis of the whole and along all others. Where it is not known which
    axis that is, and for parts of other forms, the groups of such a tensor are not claimed.

    Args:
      wiring: as `Wiring.to_json` returns it; left as it is.
      parts: of tensors that are not in the file, see `wsrl.readers.parametrized.effective`.
    """
    if not parts:
        return wiring
    tensors: dict[str, Any] = {}
    frozen: set[str] = set()
    for name, tensor in wiring["tensors"].items():
        own = parts.get(name, {name: tuple(tensor["shape"])})
        vectors = _along_vectors(tensor, own)
        for part, shape in own.items():
            axes: list = [None] * len(shape)
            if part in vectors:
                axes = [vectors[part]]
            elif len(shape) == len(tensor["shape"]):
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


def _along_vectors(tensor: Mapping[str, Any], parts: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What lies along the two vectors of spectral norm: one axis of the weight, and all others (Miyato et al., 2018).

    The first axis of a matrix, of a kernel the second one where it is transposed. Empty where that is not known.
    """
    whole = tuple(tensor["shape"])
    left, right = (next((p for p in parts if p.endswith(end)), None) for end in ("_u", "_v"))
    if left is None or right is None or {len(parts[left]), len(parts[right])} != {1}:
        return {}
    fits = [i for i in (0, 1) if whole[i] == parts[left][0] and prod(whole) == whole[i] * parts[right][0]]
    first = 0 if len(whole) == 2 and 0 in fits else fits[0] if len(fits) == 1 else None
    if first is None:
        return {}
    taps = prod(whole[2:])
    others = tensor["axes"][1 - first]
    spread = others and [segment | {"inner": segment.get("inner", 1) * taps, "power": 0} for segment in others]
    units = tensor["axes"][first]
    return {left: units and [segment | {"power": 0} for segment in units], right: spread}


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
