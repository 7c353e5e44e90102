"""Names of tensors in trees of Flax: collections of variables, within or without the state of a training run."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

TRAINING = ("opt_state", "optimizer", "opt", "step", "rng", "ema_state", "loss_scale", "dynamic_scale")


def model_names(leaves: Mapping[tuple[str, ...], T]) -> tuple[dict[str, T], tuple[str, ...]]:
    """Joins keys by slashes, and tells a model's tensors from the state of its training.

    Where one of the outermost keys is `params`, optimizer states, steps and random states beside it are left out. Names
    of collections (`params`, `batch_stats`) are dropped as long as names stay unique, so that a layer's parameters and
    statistics stand together; so is the `value` that ends every key of an NNX state.

    Args:
      leaves: keys from the outside in -> tensor.

    Returns:
      name -> tensor in the same order, and what was left out: the outermost keys.
    """
    outermost = {keys[0] for keys in leaves if keys}
    left_out = [key for key in TRAINING if key in outermost] if "params" in outermost else []
    kept = {keys: leaf for keys, leaf in leaves.items() if not keys or keys[0] not in left_out}
    if all(keys[-1:] == ("value",) for keys in kept):
        kept = {keys[:-1]: leaf for keys, leaf in kept.items()}
    while "params" in {keys[0] for keys in kept if len(keys) > 1}:
        short = {keys[1:] if len(keys) > 1 and _is_collection(keys[0]) else keys: leaf for keys, leaf in kept.items()}
        if len(short) < len(kept):
            break
        kept = short
    named = {"/".join(keys): leaf for keys, leaf in kept.items()}
    if len(named) < len(kept):  # a key may hold a slash itself
        named = {"/".join(key.replace("/", "|") for key in keys): leaf for keys, leaf in kept.items()}
    return named, tuple(left_out)


def _is_collection(key: str) -> bool:
    return key in ("params", "batch_stats")
