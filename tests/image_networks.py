"""State dicts of small image models in the names of libraries, and layers in NumPy to run them with."""

from collections.abc import Mapping

import numpy as np
from forward_onnx import onnx_model
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference import ReferenceEvaluator

from wsrl.checkpoint import Checkpoint
from wsrl.forward.families.recognize import family_graph


class StateDict(dict):
    """Random tensors by name; each method adds those of one layer."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def draw(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self[name] = (scale * self.rng.normal(size=shape)).astype(np.float32)

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        """A convolution or dense layer."""
        self.draw(f"{name}.weight", *shape, scale=float(np.prod(shape[1:])) ** -0.5)
        if bias:
            self.draw(f"{name}.bias", shape[0], scale=0.3)

    def norm(self, name: str, units: int, batch: bool = False) -> None:
        self[f"{name}.weight"] = self.rng.uniform(0.5, 1.5, units).astype(np.float32)
        self.draw(f"{name}.bias", units, scale=0.3)
        if batch:
            self.draw(f"{name}.running_mean", units, scale=0.3)
            self[f"{name}.running_var"] = self.rng.uniform(0.5, 1.5, units).astype(np.float32)

    def conv_norm(self, conv: str, norm: str, *shape: int) -> None:
        self.layer(conv, *shape, bias=False)
        self.norm(norm, shape[0], batch=True)


def small_resnet(seed: int = 0) -> StateDict:
    """A ResNet in torchvision's names with a stem for small images and two stages."""
    state = StateDict(seed)
    state.conv_norm("conv1", "bn1", 8, 3, 3, 3)
    for stage, (inputs, units) in enumerate([(8, 8), (8, 12)], 1):
        state.conv_norm(f"layer{stage}.0.conv1", f"layer{stage}.0.bn1", units, inputs, 3, 3)
        state.conv_norm(f"layer{stage}.0.conv2", f"layer{stage}.0.bn2", units, units, 3, 3)
        if inputs != units:
            state.conv_norm(f"layer{stage}.0.downsample.0", f"layer{stage}.0.downsample.1", units, inputs, 1, 1)
    state.layer("fc", 5, 12)
    return state


def small_vit(seed: int = 0, units: int = 128) -> StateDict:
    """A vision transformer in timm's names: two blocks, 3 x 3 patches of 4 pixels."""
    state = StateDict(seed)
    state.draw("cls_token", 1, 1, units)
    state.draw("pos_embed", 1, 10, units)
    state.layer("patch_embed.proj", units, 3, 4, 4)
    for i in range(2):
        state.norm(f"blocks.{i}.norm1", units)
        state.layer(f"blocks.{i}.attn.qkv", 3 * units, units)
        state.layer(f"blocks.{i}.attn.proj", units, units)
        state.norm(f"blocks.{i}.norm2", units)
        state.layer(f"blocks.{i}.mlp.fc1", 2 * units, units)
        state.layer(f"blocks.{i}.mlp.fc2", units, 2 * units)
    state.norm("norm", units)
    state.layer("head", 7, units)
    return state


def checkpoint(state: Mapping[str, np.ndarray], **metadata: object) -> Checkpoint:
    return Checkpoint("model.safetensors", dict(state), metadata)


def logits(state: Mapping[str, np.ndarray], images: np.ndarray, **metadata: object) -> np.ndarray:
    """What the operators of a state dict give, in ONNX's reference evaluator."""
    graph, _ = family_graph(checkpoint(state, **metadata))
    assert images.shape[1:] == graph.input_shape
    (found,) = ReferenceEvaluator(onnx_model(graph, state)).run(None, {graph.input: images})
    return found


def images(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, 3, side, side)).astype(np.float32)


def conv(x, weight, stride=1, bias=None):
    """A convolution of [n, channels, height, width] padded by half the kernel."""
    half = weight.shape[-1] // 2
    windows = sliding_window_view(np.pad(x, [(0, 0)] * 2 + [(half, half)] * 2), weight.shape[2:], (2, 3))
    found = np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight)
    return found if bias is None else found + bias[:, None, None]


def batch_norm(x, state, name, epsilon=1e-5):
    gain, shift, mean, variance = (
        state[f"{name}.{role}"][:, None, None] for role in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + epsilon) * gain + shift


def layer_norm(x, state, name, epsilon=1e-6):
    centered = x - x.mean(-1, keepdims=True)
    root = np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
    return centered / root * state[f"{name}.weight"] + state[f"{name}.bias"]


def dense(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
