"""The scale of low-rank adapters: what the product of their two matrices is multiplied by.

PEFT keeps `lora_alpha` and `r` in `adapter_config.json` (https://github.com/huggingface/peft, `LoraConfig`): the scale
is alpha / r, or with `use_rslora` alpha / sqrt(r) (Kalajdzievski 2023). Kohya's scripts and LyCORIS keep `alpha` as a
tensor beside the matrices (https://github.com/kohya-ss/sd-scripts, networks/lora.py).
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


def adapter_scales(tensors: Mapping[str, LazyTensor], config: object) -> dict[str, float]:
    """Returns the scale of each adapted module by its name, as far as the file or its configuration tells.

    Args:
      tensors: of the file.
      config: the content of `adapter_config.json`, or None. Keys of its `alpha_pattern` are names of modules, or how
        names end after a dot; other regular expressions are not understood.

    Raises:
      CheckpointError: an alpha cannot be read.
    """
    scales = {}
    for name, tensor in tensors.items():
        module = next((name.removesuffix(end) for end in DOWN if name.endswith(end)), None)
        if module is None or module in scales or not tensor.ndim or not tensor.shape[0]:
            continue
        alpha, rank = tensors.get(f"{module}.alpha"), tensor.shape[0]
        if alpha is not None and alpha.size == 1:
            scale = float(np.asarray(alpha).reshape(())) / rank
        else:
            scale = _configured(module, rank, config)
        if scale is not None and isfinite(scale):
            scales[module] = scale
    return scales


def _configured(module: str, rank: int, config: object) -> float | None:
    if not isinstance(config, Mapping):
        return None
    alpha, pattern = config.get("lora_alpha"), config.get("alpha_pattern")
    for key, own in pattern.items() if isinstance(pattern, Mapping) else ():
        if isinstance(key, str) and f".{module}".endswith(f".{key}"):
            alpha = own
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        return None
    return float(alpha) / (sqrt(rank) if config.get("use_rslora") is True else rank)
