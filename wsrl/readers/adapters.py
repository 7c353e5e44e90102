"""The scale of low-rank adapters: what the product of their two matrices is multiplied by.

PEFT keeps `lora_alpha` and `r` in `adapter_config.json` (https://github.com/huggingface/peft, `LoraConfig`): the scale
is alpha / r, or with `use_rslora` alpha / sqrt(r) (Kalajdzievski 2023). Of Hadamard and Kronecker products (LoHa, LoKr)
it keeps `alpha`, and divides by `r` even where both matrices of a Kronecker product are whole. Kohya's scripts and
LyCORIS keep `alpha` as a tensor beside the matrices (https://github.com/kohya-ss/sd-scripts, networks/lora.py); LyCORIS
scales no products of whole matrices.
"""

from collections.abc import Mapping
from math import isfinite, sqrt

import numpy as np

from wsrl.checkpoint import LazyTensor

# How the matrix [rank, inputs] of an adapter is called behind the name of its module.
DOWN = (
    *(".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight", ".lora_embedding_A"),
    *(".hada_w1_b", ".lokr_w1_b", ".lokr_w2_b"),
)
WHOLE = ".lokr_w2"  # of Kronecker products; both matrices are whole where the first one is


def adapter_scales(tensors: Mapping[str, LazyTensor], config: object) -> dict[str, float]:
    """Returns the scale of each adapted module by its name, as far as the file or its configuration tells.

    Args:
      tensors: of the file.
      config: the content of `adapter_config.json`, or None. Keys of its `alpha_pattern` and `rank_pattern` are names of
        modules, or how names end after a dot; other regular expressions are not understood.

    Raises:
      CheckpointError: an alpha cannot be read.
    """
    scales = {}
    for name, tensor in tensors.items():
        module = next((name.removesuffix(end) for end in (*DOWN, WHOLE) if name.endswith(end)), None)
        if module is None or module in scales or not tensor.ndim or not tensor.shape[0]:
            continue
        alpha, rank = tensors.get(f"{module}.alpha"), tensor.shape[0]
        if name.endswith(WHOLE):
            whole = f"{module}.lokr_w1" in tensors and alpha is None
            rank = _of_module(module, config, "r", "rank_pattern") if whole else None
            scale = _configured(module, rank, config) if rank else None
        elif alpha is not None and alpha.size == 1:
            scale = float(np.asarray(alpha).reshape(())) / rank
        else:
            scale = _configured(module, rank, config)
        if scale is not None and isfinite(scale):
            scales[module] = scale
    return scales


def _configured(module: str, rank: int | float, config: object) -> float | None:
    alpha = _of_module(module, config, "lora_alpha", "alpha_pattern")
    if alpha is None:
        alpha = _of_module(module, config, "alpha", "alpha_pattern")
    if alpha is None or not isinstance(config, Mapping):
        return None
    return alpha / (sqrt(rank) if config.get("use_rslora") is True else rank)


def _of_module(module: str, config: object, key: str, pattern: str) -> float | None:
    """The number of a module: that of all modules, or the one that a pattern has for it; None if there is none."""
    if not isinstance(config, Mapping) or key not in config:
        return None
    value, own = config[key], config.get(pattern)
    for name, number in own.items() if isinstance(own, Mapping) else ():
        if isinstance(name, str) and f".{module}".endswith(f".{name}"):
            value = number
            break
    return _number(value)


def _number(value: object) -> float | None:
    """A finite number, also one that is written as text; None if it is no such thing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def unreadable_scale(config: object) -> str | None:
    """Returns a line about an adapter's configuration whose `lora_alpha` or `alpha` is no number; None if it is one."""
    if not isinstance(config, Mapping):
        return None
    for key in ("lora_alpha", "alpha"):
        if key in config and _number(config[key]) is None:
            return f"adapter_config.json: {key!r} is no number; the adapter's scale is taken as 1"
    return None
