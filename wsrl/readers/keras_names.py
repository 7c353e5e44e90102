"""Names the weights of Keras layers as Keras itself does, where a file only numbers them.

A `.weights.h5` file (Keras 3, `keras/src/saving/saving_lib.py`) stores a layer's weights as `vars/0`, `vars/1`, ... in
the order in which the layer made them. Its groups are called after the classes of layers, or after the attributes that
hold them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SCALE_AND_CENTER = ("gamma", "beta")  # a norm has either only if its configuration says so
STATISTICS = ("moving_mean", "moving_variance")
NORMS = {"batch_normalization": STATISTICS, "layer_normalization": (), "group_normalization": ()}
ORDERS = {
    "embedding": ("embeddings",),
    "p_re_lu": ("alpha",),
    "rms_normalization": ("scale",),
    "separable_conv1d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
}
CELL = ("kernel", "recurrent_kernel", "bias")
AFFINE = ("kernel", "bias")


def weight_names(group: str, shapes: Sequence[tuple[int, ...]], config: Mapping[str, Any] | None) -> list[str]:
    """Returns the names of a layer's weights.

    Args:
      group: what the file calls the layer: its class in snake case, maybe with a number, or an attribute like `cell`.
      shapes: of its weights in order.
      config: the layer's configuration, if the file has one.

    Returns:
      A name a weight, `var0`, `var1`, ... if what is known of the layer does not tell them.
    """
    kind = re.sub(r"_\d+$", "", group)
    if kind in NORMS:
        names = _norm_names(NORMS[kind], len(shapes), config)
    elif kind in ORDERS:
        names = ORDERS[kind]
    elif kind == "cell" or kind.endswith("_cell"):
        names = CELL
    else:  # dense layers and convolutions of all kinds have a kernel of more axes than the bias
        ranks = [len(shape) for shape in shapes]
        names = AFFINE if ranks and ranks[0] >= 2 and all(rank < ranks[0] for rank in ranks[1:]) else ()
    names = list(names[: len(shapes)])
    return names if len(names) == len(shapes) else [f"var{i}" for i in range(len(shapes))]


def _norm_names(statistics: tuple[str, ...], count: int, config: Mapping[str, Any] | None) -> tuple[str, ...]:
    learned = count - len(statistics)
    if config is not None:
        used = (config.get("scale", True), config.get("center", True))
        names = tuple(name for name, is_used in zip(SCALE_AND_CENTER, used, strict=True) if is_used)
        return (*names, *statistics) if len(names) == learned else ()
    return {0: statistics, 2: (*SCALE_AND_CENTER, *statistics)}.get(learned, ())


def layers_by_key(model: object) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Returns name and configuration of a model's layers by the keys of their groups: `dense`, `dense_1`, `conv2d`.

    Keys are the layers' classes in snake case, numbered in the order of the configuration (`_save_container_state` of
    Keras' `saving_lib.py`).

    Args:
      model: configuration of a model; nothing is returned for one of another form.
    """
    own = model.get("config") if isinstance(model, Mapping) else None
    layers = own.get("layers") if isinstance(own, Mapping) else None
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    times: Counter[str] = Counter()
    for layer in layers if isinstance(layers, list) else ():
        match layer:
            case {"class_name": str(kind), "config": {"name": str(name)}}:
                word = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
                word = re.sub(r"([a-z])([A-Z])", r"\1_\2", word).lower()
                found[f"{word}_{times[word]}" if times[word] else word] = name, layer
                times[word] += 1
            case _:
                return {}
    return found


def layer_configs(config: object) -> dict[str, Mapping[str, Any]]:
    """Returns the configuration of every layer in a model's configuration, by the layer's name."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            inner = value.get("config")
            if "class_name" in value and isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
                found.setdefault(inner["name"], inner)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found
