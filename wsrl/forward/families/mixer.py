"""MLP-Mixer, gMixer, ResMLP and ConvMixer of timm.

Tolstikhin et al. 2021; Touvron et al. 2022; Trockman and Kolter 2022.
"""

from math import isqrt

from wsrl.forward.families.blocks import gated_perceptron, perceptron
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value

RELU_WIDTH = 768  # of the one ConvMixer that has ReLUs


def mixer(m: Module) -> Value:
    """Perceptrons of all tokens, channel by channel, and of all channels, token by token."""
    net = m.net
    act = net.assume("activation", "gelu")
    net.epsilon["norm"] = net.assume("epsilon", 1e-6)
    _, channels, patch, _ = m.shape("stem.proj.weight")
    first = m["blocks.0"]
    tokens = first.shape("linear_tokens.weight" if "linear_tokens" in first else "mlp_tokens.fc2.weight")[0]
    x = net.image(channels, 224, patch, patch * isqrt(tokens))
    x = m.conv(x, "stem.proj", patch, 0).tokens()
    for block in m.listed("blocks"):
        y = _norm(block, x, "norm1").transpose(1, 0)
        y = block.linear(y, "linear_tokens") if "linear_tokens" in block else _mixed(block["mlp_tokens"], y, act)
        x = x + _scaled(block, y.transpose(1, 0), "ls1")
        x = x + _scaled(block, _mixed(block["mlp_channels"], _norm(block, x, "norm2"), act), "ls2")
    return m.linear(_norm(m, x, "norm").mean(0), "head")


def _norm(m: Module, x: Value, name: str) -> Value:
    """A layer norm, or ResMLP's affine map."""
    if f"{name}.alpha" not in m:
        return m.norm(x, name)
    return x * m.tensor(f"{name}.alpha").reshape(x.shape[1]) + m.tensor(f"{name}.beta").reshape(x.shape[1])


def _scaled(m: Module, x: Value, name: str) -> Value:
    return x * m.tensor(name) if name in m else x


def _mixed(m: Module, x: Value, act: str) -> Value:
    """A perceptron; of gMixer one whose gates come second."""
    if m.shape("fc1.weight")[0] == m.shape("fc2.weight")[1]:
        return perceptron(m, x, act)
    m.net.assume("activation of gates", "silu")
    return gated_perceptron(m, x, "silu", fused=True, gates_last=True)


def convmixer(m: Module) -> Value:
    """Depthwise convolutions by a large kernel with a shortcut, then convolutions by 1 x 1; norms after activations."""
    width, channels, patch, _ = m.shape("stem.0.weight")
    act = m.net.assume("activation", "relu" if width == RELU_WIDTH else "gelu")
    x = m.net.image(channels, 224, patch)
    x = m.norm(activate(m.conv(x, "stem.0", patch, 0), act), "stem.2")
    for block in m.listed("blocks"):
        x = x + block.norm(activate(block.conv(x, "0.fn.0"), act), "0.fn.2")
        x = block.norm(activate(block.conv(x, "1"), act), "3")
    return m.linear(x.mean(1, 2), "head")


FAMILIES = (
    Family("a mixer", (r"stem\.proj\.weight", r"blocks\.0\.mlp_channels\.fc1\.weight", r"head\.weight"), mixer),
    Family("a ConvMixer", (r"stem\.0\.weight", r"blocks\.0\.0\.fn\.0\.weight", r"head\.weight"), convmixer),
)
