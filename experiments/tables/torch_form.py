"""Networks of the zoo as bare PyTorch files: names and layouts of PyTorch, and nothing else.

Chains of convolutions and dense layers come in two styles: as one `Sequential`, whose numbers leave room for modules
without tensors, and as named attributes, whose names tell nothing of these.
"""

import re
from collections.abc import Iterator, Mapping
from math import isqrt

import numpy as np

STYLES = ("sequential", "named")
RNN = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
FIELDS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
ATTENTION = "MultiHeadDotProductAttention_0"
CELL = "SimpleCell"
NAMES = (  # of residual networks as in torchvision, then of vision transformers as in timm
    *((r"Conv_0", "conv1"), (r"BatchNorm_0", "bn1")),
    *((rf"ResidualBlock_(\d+)/Conv_{i}", rf"layer1.\1.{name}") for i, name in enumerate(("conv1", "conv2"))),
    *((rf"ResidualBlock_(\d+)/BatchNorm_{i}", rf"layer1.\1.{name}") for i, name in enumerate(("bn1", "bn2"))),
    *((r"ResidualBlock_(\d+)/Conv_2", r"layer1.\1.downsample.0"), (r"Dense_0", "fc")),
    (r"ResidualBlock_(\d+)/BatchNorm_2", r"layer1.\1.downsample.1"),
)
TRANSFORMER = (
    *((r"Conv_0", "patch_embed.proj"), (r"LayerNorm_0", "norm"), (r"Dense_0", "head")),
    *((rf"TransformerBlock_(\d+)/LayerNorm_{i}", rf"blocks.\1.norm{i + 1}") for i in range(2)),
    *((rf"TransformerBlock_(\d+)/Dense_{i}", rf"blocks.\1.mlp.fc{i + 1}") for i in range(2)),
    (rf"TransformerBlock_(\d+)/{ATTENTION}/out", r"blocks.\1.attn.proj"),
)
Tensors = dict[str, np.ndarray]


def torch_form(tensors: Mapping[str, np.ndarray], style: str, pooled: bool) -> Tensors:
    """Returns the tensors of a Flax network of the zoo under PyTorch's names.

    Args:
      tensors: by Flax's path, of any of its families.
      style: of chains, one of `STYLES`.
      pooled: whether windows are pooled behind each convolution, which takes a module of a `Sequential`.
    """
    modules: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        path, _, field = name.partition("/")[2].rpartition("/")
        modules.setdefault(path, {})[field] = np.asarray(tensor)
    if any(ATTENTION in path for path in modules):
        return _transformer(modules)
    if any(path.startswith("ResidualBlock") for path in modules):
        return _named(modules, NAMES)
    if any(path.startswith(CELL) for path in modules):
        return _recurrent(modules)
    return _chain(modules, style, pooled)


def _chain(modules: Mapping[str, Tensors], style: str, pooled: bool) -> Tensors:
    kinds = {kind: sum(path.startswith(kind) for path in modules) for kind in ("Conv", "BatchNorm", "Dense")}
    found: Tensors = {}
    place, channels = 0, 1
    for i in range(kinds["Conv"]):
        found |= _module(modules[f"Conv_{i}"], f"net.{place}" if style == "sequential" else f"conv{i + 1}")
        channels = modules[f"Conv_{i}"]["kernel"].shape[-1]
        if kinds["BatchNorm"]:
            found |= _module(modules[f"BatchNorm_{i}"], f"net.{place + 1}" if style == "sequential" else f"bn{i + 1}")
        place += 2 + bool(kinds["BatchNorm"]) + pooled
    place += 1  # a flatten; behind it other modules
    for i in range(kinds["Dense"]):
        own = dict(modules[f"Dense_{i}"])
        positions = own["kernel"].shape[0] // channels
        if i == 0 and kinds["Conv"] and positions > 1:  # PyTorch flattens channels first
            side = isqrt(positions)
            maps = own["kernel"].reshape(side, side, channels, -1)
            own["kernel"] = maps.transpose(2, 0, 1, 3).reshape(own["kernel"].shape)
        found |= _module(own, f"net.{place + 2 * i}" if style == "sequential" else f"fc{i + 1}")
    return found


def _transformer(modules: Mapping[str, Tensors]) -> Tensors:
    found = {"pos_embed": modules[""]["pos_embedding"]}
    plain = {
        path: own for path, own in modules.items() if path and path.split("/")[-1] not in ("query", "key", "value")
    }
    for path, own in list(plain.items()):
        if path.endswith(f"{ATTENTION}/out"):
            plain[path] = own | {"kernel": own["kernel"].reshape(-1, own["kernel"].shape[-1])}
    blocks = sorted({path.split("/")[0] for path in modules if ATTENTION in path})
    for number, block in enumerate(blocks):
        parts = [modules[f"{block}/{ATTENTION}/{part}"] for part in ("query", "key", "value")]
        name = f"blocks.{number}.attn.qkv"
        weights = np.concatenate([p["kernel"].reshape(len(p["kernel"]), -1).T for p in parts])
        found[f"{name}.weight"] = np.ascontiguousarray(weights)  # safetensors writes the memory as it lies
        found[f"{name}.bias"] = np.concatenate([p["bias"].reshape(-1) for p in parts])
    return found | _named(plain, TRANSFORMER)


def _recurrent(modules: Mapping[str, Tensors]) -> Tensors:
    """As `torch.nn.RNN` has it, with a second bias, which Flax's cells lack."""
    found = _module(modules["Dense_0"], "fc")
    for layer in range(sum(path.startswith(CELL) for path in modules) // 2):
        inputs, states = modules[f"{CELL}_{layer}/i"], modules[f"{CELL}_{layer}/h"]
        found |= {f"rnn.{name}_l{layer}": value for name, value in zip(RNN, _cell(inputs, states), strict=True)}
    return found


def _cell(inputs: Tensors, states: Tensors) -> Iterator[np.ndarray]:
    """Weights [units, in] of inputs and of states, and two biases [units], whose sum counts."""
    yield np.ascontiguousarray(inputs["kernel"].T)
    yield np.ascontiguousarray(states["kernel"].T)
    yield inputs["bias"] / 2
    yield inputs["bias"] / 2


def _named(modules: Mapping[str, Tensors], names: tuple[tuple[str, str], ...]) -> Tensors:
    found: Tensors = {}
    for path, own in modules.items():
        (name,) = (re.sub(pattern, target, path) for pattern, target in names if re.fullmatch(pattern, path))
        found |= _module(own, name)
    return found


def _module(own: Tensors, name: str) -> Tensors:
    return {f"{name}.{field}": value for field, value in _fields(own)}


def _fields(own: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    for field, value in own.items():
        if field == "kernel":  # [..., in, out] to [out, in, ...]
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        yield FIELDS[field], np.ascontiguousarray(value)
