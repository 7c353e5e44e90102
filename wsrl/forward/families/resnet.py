"""Residual networks of torchvision, timm and transformers (He et al. 2016; Xie et al. 2017; He et al. 2019, the stems).

Names are torchvision's: `conv1`, `bn1`, `layer1.0.conv2`, `layer1.0.downsample.0`, `fc`. timm's deep stems are lists
`conv1.0`, `conv1.1`, ...; in its networks of type D a pooling without tensors moves `downsample.0` on to `.1`.
"""

from functools import partial

from wsrl.forward.families.blocks import efficient_channels, squeeze_excite
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value, concat

SMALL, USUAL = 32, 224  # pixels a side of images for stems without and with strides
GROUPS = 32  # of group norms, where there are any

OF_TRANSFORMERS = (
    (r"^resnet\.", ""),
    (r"^embedder\.embedder\.", ""),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"\.layer\.(\d+)\.convolution", lambda m: f".conv{int(m[1]) + 1}"),
    (r"\.layer\.(\d+)\.normalization", lambda m: f".bn{int(m[1]) + 1}"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"^convolution", "conv1"),
    (r"^normalization", "bn1"),
    (r"^classifier\.1", "fc"),
)
OF_SENETS = ((r"^layer0\.", ""), (r"se_module", "se"), (r"^last_linear", "fc"))


def resnet(m: Module, senet: bool = False) -> Value:
    """Writes a residual network down.

    Args:
      senet: whether it is of the networks of Hu et al. 2018 as timm has them: the first pooling counts windows that
        reach beyond the map, bottlenecks without groups shrink the map in their first convolution, and in blocks of two
        an activation follows both.
    """
    act = m.net.activation = m.net.choose("activation", "relu", "hidden_act")
    for word in ("aa", "blur"):
        if word in m.net.config.architecture:
            raise ValueError(f"the anti-aliasing of {m.net.config.architecture!r} is not known")
    x = _stem(m, act, senet)
    for i, stage in enumerate(m[f"layer{n}"] for n in range(1, 9)):
        for j, block in enumerate(stage.listed()):
            x = residual_block(block, x, act, 2 if i and not j else 1, senet)
    x = x.mean(1, 2)
    return m.linear(x, "fc")


def _norm(m: Module, x: Value, name: str) -> Value:
    return m.norm(x, name, groups=0 if f"{name}.running_var" in m else GROUPS)


def _stem(m: Module, act: str, senet: bool) -> Value:
    first = "conv1" if "conv1.weight" in m else "conv1.0" if "conv1.0.weight" in m else "conv1.conv1"
    _, channels, kernel, _ = m.shape(f"{first}.weight")
    small = first == "conv1" and kernel == 3
    x = m.net.image(channels, SMALL if small else USUAL)
    m.net.assume("strides of the stem", 1 if small else 4)
    if first == "conv1":
        x = activate(_norm(m, m.conv(x, first, 1 if small else 2), "bn1"), act)
    else:
        x = _deep_stem(m, x, act)
    if small:
        return x
    if "maxpool.0" in m:
        return activate(_norm(m, m.conv(x, "maxpool.0", 2), "maxpool.1"), act)
    return pooled(x, "max", 3, 2, 0 if senet else 1, ceil=senet)


def _deep_stem(m: Module, x: Value, act: str) -> Value:
    """Three convolutions: a list with its norms, or those of SENets, which have names."""
    if "conv1.conv1" in m:
        raise ValueError("its stem is not known")
    last = m["conv1"].listed()[-1].path.rpartition(".")[2]
    for conv in m["conv1"].listed():
        name = conv.path.rpartition(".")[2]
        if len(conv.shape("weight")) == 4:
            x = conv.conv(x, stride=2 if name == "0" else 1)
        else:
            x = activate(_norm(m["conv1"], x, name), act)
    return activate(_norm(m, x, "bn1"), act) if len(m["conv1"].shape(f"{last}.weight")) == 4 else x


def residual_block(m: Module, x: Value, act: str, stride: int, senet: bool = False) -> Value:
    """Two or three convolutions, or more for parts of the channels, and a shortcut; see `resnet`."""
    if "convs" in m:
        return _scaled_block(m, x, act, stride)
    convs = [name for name in ("conv1", "conv2", "conv3") if name in m]
    grouped = m.shape("conv2.weight")[1] != m.shape("conv1.weight")[0]
    shrinks = "conv1" if len(convs) == 2 or (senet and not grouped) else "conv2"
    skip = _shortcut(m["downsample"], x, stride) if "downsample" in m else x
    for name in convs:
        x = _norm(m, m.conv(x, name, stride if name == shrinks else 1), f"bn{name[-1]}")
        x = activate(x, act) if name != convs[-1] or (senet and len(convs) == 2) else x
    if "se.conv" in m:
        m.net.assume("attention of channels", "ECA")
        x = efficient_channels(m["se"], x)
    elif "se" in m:
        x = squeeze_excite(m["se"], x)
    return activate(x + skip, act)


def _scaled_block(m: Module, x: Value, act: str, stride: int) -> Value:
    """A block whose 3 x 3 convolutions follow one another, each for a part of the channels (Gao et al. 2021)."""
    skip, first = (_shortcut(m["downsample"], x, stride), True) if "downsample" in m else (x, False)
    x = activate(m.norm(m.conv(x, "conv1"), "bn1"), act)
    width = m.shape("convs.0.weight")[0]
    parts = x.split(0, *[width] * (x.shape[0] // width))
    found: list[Value] = []
    for i, part in enumerate(parts[:-1]):
        y = part if first or not found else found[-1] + part
        found.append(activate(m.norm(m.conv(y, f"convs.{i}", stride), f"bns.{i}"), act))
    last = pooled(parts[-1], "average", 3, stride, 1, count_include_pad=1) if first else parts[-1]
    x = m.norm(m.conv(concat([*found, last], 0), "conv3"), "bn3")
    return activate((squeeze_excite(m["se"], x) if "se" in m else x) + skip, act)


def _shortcut(m: Module, x: Value, stride: int) -> Value:
    conv, norm = [layer.path.rpartition(".")[2] for layer in m.listed()]
    if conv == "0":
        return _norm(m, m.conv(x, conv, stride), norm)
    x = pooled(x, "average", 2, 2, ceil=True) if stride == 2 else x
    return _norm(m, m.conv(x, conv), norm)


SIGNATURE = (r"(conv1|conv1\.0)\.weight", r"layer1\.0\.(conv2|convs\.0)\.weight", r"fc\.weight")
FAMILIES = (
    Family("a ResNet", SIGNATURE, resnet),
    Family("a ResNet", SIGNATURE, resnet, OF_TRANSFORMERS),
    Family("an SENet", SIGNATURE, partial(resnet, senet=True), OF_SENETS),
)
