"""Freshly drawn networks of every family, with their functions, for tests of graphs and encoders."""

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np

from wsrl.checkpoint import Checkpoint
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.models import Classifier, ResNet

MAIN = CATALOGUES["main"]
CASES = [(family, variant) for family in MAIN for variant in range(len(MAIN[family].variants))]
NAMES = [f"{family}-{MAIN[family].variants[variant].activation}" for family, variant in CASES]
SIZE = 16


def draw_network(family: str, variant: int, seed: int = 0) -> tuple[Checkpoint, dict]:
    """A network with random weights, biases and norm statistics; and its Flax variables."""
    checkpoint, variables = draw_model(MAIN[family].variants[variant], [seed, variant])
    return Checkpoint(f"{family}-{variant}", checkpoint.tensors, checkpoint.metadata), variables


def draw_model(model: Classifier, seed: int | list[int] = 0, size: int = SIZE) -> tuple[Checkpoint, dict]:
    """As `draw_network`, of any model."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            return rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1]))) if leaf.ndim > 1 else 4
        return (rng.standard_normal(leaf.shape) * 1.5 / np.sqrt(fan_in)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    tensors = {k: np.asarray(v) for k, v in flax.traverse_util.flatten_dict(variables, sep="/").items()}
    metadata = {
        "activation": model.activation,
        "strides": list(model.conv_strides),
        "heads": model.heads,
        "input_shape": [size, size, 1],
    }
    if isinstance(model, ResNet):
        assert len(model.conv_strides) == sum(tensor.ndim == 4 for tensor in tensors.values())
    return Checkpoint(type(model).__name__, tensors, metadata), variables


def logits(family: str, variant: int, variables: dict, images: np.ndarray) -> np.ndarray:
    """What the Flax module computes."""
    return np.asarray(MAIN[family].variants[variant].apply(variables, images))


def variables_of(checkpoint: Checkpoint) -> dict:
    """Flax variables of a checkpoint in Flax's names."""
    return flax.traverse_util.unflatten_dict(dict(checkpoint.tensors), sep="/")


def in_torch_names(checkpoint: Checkpoint, family: str) -> Checkpoint:
    """The same network with tensors named and laid out as PyTorch does."""
    tensors = {}
    grid = None
    for name, value in checkpoint.tensors.items():
        path = name.removeprefix("params/").removeprefix("batch_stats/").split("/")
        field, module = path[-1], path[:-1]
        if field == "pos_embedding":
            tensors["pos_embed"] = value
            continue
        if "MultiHeadDotProductAttention_0" in module:
            continue  # fused below
        target = torch_module(module, family)
        if field == "kernel" and value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif field == "kernel":
            channels = last_channels(checkpoint, family)
            if channels and value.shape[0] % channels == 0 and value.shape[0] > channels and module == ["Dense_0"]:
                grid = int(np.sqrt(value.shape[0] // channels))
                value = value.reshape(grid, grid, channels, -1).transpose(2, 0, 1, 3).reshape(value.shape)
            value = value.T
        field = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(field, field)
        tensors[".".join([*target, field])] = np.ascontiguousarray(value)
    for name in checkpoint.tensors:
        if name.endswith("MultiHeadDotProductAttention_0/query/kernel"):
            fuse_attention(checkpoint, name.removesuffix("query/kernel"), tensors)
    return Checkpoint(checkpoint.path, tensors, checkpoint.metadata)


def last_channels(checkpoint: Checkpoint, family: str) -> int | None:
    """Channels of the last convolution before a flatten."""
    if family != "cnn_flatten":
        return None
    kernels = [k for k in checkpoint.tensors if re.fullmatch(r"params/Conv_\d+/kernel", k)]
    return checkpoint.tensors[max(kernels)].shape[-1]


def torch_module(module: list[str], family: str) -> list[str]:
    """PyTorch-like path of a Flax module."""
    path = "/".join(module)
    patterns = {
        "resnet": [
            (r"Conv_0", "conv1"),
            (r"BatchNorm_0", "bn1"),
            (r"ResidualBlock_(\d+)/Conv_0", r"layer1.\1.conv1"),
            (r"ResidualBlock_(\d+)/BatchNorm_0", r"layer1.\1.bn1"),
            (r"ResidualBlock_(\d+)/Conv_1", r"layer1.\1.conv2"),
            (r"ResidualBlock_(\d+)/BatchNorm_1", r"layer1.\1.bn2"),
            (r"ResidualBlock_(\d+)/Conv_2", r"layer1.\1.downsample.0"),
            (r"ResidualBlock_(\d+)/BatchNorm_2", r"layer1.\1.downsample.1"),
            (r"Dense_0", "fc"),
        ],
        "vit": [
            (r"Conv_0", "patch_embed.proj"),
            (r"LayerNorm_0", "norm"),
            (r"TransformerBlock_(\d+)/LayerNorm_0", r"blocks.\1.norm1"),
            (r"TransformerBlock_(\d+)/LayerNorm_1", r"blocks.\1.norm2"),
            (r"TransformerBlock_(\d+)/Dense_0", r"blocks.\1.mlp.fc1"),
            (r"TransformerBlock_(\d+)/Dense_1", r"blocks.\1.mlp.fc2"),
            (r"Dense_0", "head"),
        ],
    }.get(family)
    if patterns is None:  # a sequence: convolution i, its norm, activation; then the classifier
        kind, number = module[0].split("_")
        place = {"Conv": 3 * int(number), "BatchNorm": 3 * int(number) + 1, "Dense": 2 * int(number)}[kind]
        return ["classifier" if kind == "Dense" else "features", str(place)]
    for pattern, target in patterns:
        if re.fullmatch(pattern, path):
            return re.sub(pattern, target, path).split(".")
    raise AssertionError(path)


def fuse_attention(checkpoint: Checkpoint, prefix: str, tensors: dict) -> None:
    """timm's fused qkv of a Flax attention module."""
    block = re.search(r"TransformerBlock_(\d+)", prefix)[1]
    get = checkpoint.tensors.__getitem__
    weights = [get(f"{prefix}{n}/kernel") for n in ("query", "key", "value")]
    biases = [get(f"{prefix}{n}/bias") for n in ("query", "key", "value")]
    tensors[f"blocks.{block}.attn.qkv.weight"] = np.concatenate([w.reshape(len(w), -1).T for w in weights])
    tensors[f"blocks.{block}.attn.qkv.bias"] = np.concatenate([b.reshape(-1) for b in biases])
    out = get(f"{prefix}out/kernel")
    tensors[f"blocks.{block}.attn.proj.weight"] = np.ascontiguousarray(out.reshape(-1, out.shape[-1]).T)
    tensors[f"blocks.{block}.attn.proj.bias"] = get(f"{prefix}out/bias")
