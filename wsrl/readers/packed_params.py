"""Names of tensors in quantized modules of PyTorch, which keep weight and bias packed in one object.

The layouts: torch/ao/nn/quantized in https://github.com/pytorch/pytorch. A packed object's state is a tuple, maybe in
tuples, with a quantized tensor and the bias among settings.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from wsrl.readers.allowlist import PickledArray, StoredTensor

PACKED = "_packed_params"


def packed_tensors(items: Sequence[object]) -> dict[str, StoredTensor]:
    """Returns weight and bias of a packed object by name; empty if the items are not those of one."""
    tensors = [item for item in items if isinstance(item, StoredTensor)]
    weights = [tensor for tensor in tensors if tensor.quantizer is not None]
    biases = [tensor for tensor in tensors if tensor.quantizer is None]
    if len(weights) != 1 or len(biases) > 1 or any(bias.shape != weights[0].shape[:1] for bias in biases):
        return {}
    return dict(zip(("weight", "bias"), weights + biases, strict=False))


def owner(keys: tuple[str, ...]) -> list[str]:
    """The names of the modules around a packed object."""
    names = [name for key in keys for name in key.split(".")]
    return names[: names.index(PACKED)] if PACKED in names else names


def without_activations(leaves: Mapping[str, StoredTensor | PickledArray]) -> dict[str, StoredTensor | PickledArray]:
    """Leaves out scale and zero point of what quantized modules answer, if there are any such modules."""
    if not any(isinstance(leaf, StoredTensor) and leaf.quantizer for leaf in leaves.values()):
        return dict(leaves)
    zeros = {name.removesuffix("zero_point") for name, leaf in leaves.items() if _is_single(name, leaf, "zero_point")}
    scales = {name.removesuffix("scale") for name, leaf in leaves.items() if _is_single(name, leaf, "scale")}
    dropped = {stem + end for stem in zeros & scales for end in ("scale", "zero_point")}
    return {name: leaf for name, leaf in leaves.items() if name not in dropped}


def _is_single(name: str, leaf: StoredTensor | PickledArray, end: str) -> bool:
    shape = leaf.shape if isinstance(leaf, StoredTensor) else np.shape(leaf.array)
    return name.rpartition(".")[2] == end and all(n == 1 for n in shape)
