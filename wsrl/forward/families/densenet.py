"""Densely connected networks of torchvision and timm, RDNet and dual-path networks of timm.

Huang et al. 2017; Kim et al. 2024; Chen et al. 2017.
"""

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value, concat

OLD_NAMES = ((r"\b(norm|conv)\.([12])\b", r"\1\2"),)  # of the first files of torchvision


def densenet(m: Module) -> Value:
    """Layers that read all earlier maps of their block; between blocks the map shrinks to half."""
    if "blur" in m.net.config.architecture:
        raise ValueError("its anti-aliasing is not known")
    act = m.net.choose("activation", "relu", "act_layer")
    m = m["features"]
    x = m.net.image(m.shape("conv0.weight")[1], 224)
    x = activate(m.norm(m.conv(x, "conv0", 2), "norm0"), act)
    x = pooled(x, "max", 3, 2, 1)
    for name in m.children():
        if name.startswith("denseblock"):
            for layer in (m[name][child] for child in m[name].children()):
                y = layer.conv(activate(layer.norm(x, "norm1"), act), "conv1")
                y = layer.conv(activate(layer.norm(y, "norm2"), act), "conv2")
                x = concat([x, y], 0)
            following = m[name.replace("denseblock", "transition")]
            if "conv" in following:
                x = following.conv(activate(following.norm(x, "norm"), act), "conv")
                x = pooled(x, "average", 2, 2)
    x = activate(m.norm(x, "norm5"), act)
    return Module(m.net).linear(x.mean(1, 2), "classifier")


def rdnet(m: Module) -> Value:
    """Blocks like ConvNeXt's that read all earlier maps of their stage."""
    act = m.net.assume("activation", "gelu")
    m.net.epsilon["norm"] = m.net.assume("epsilon", 1e-6)
    _, channels, patch, _ = m.shape("stem.0.weight")
    x = _channels_normed(m["stem"], m.conv(m.net.image(channels, 224, 32), "stem.0", patch, 0), "1")
    for stage in m.listed("dense_stages"):
        *shrinking, last = stage.listed()
        if shrinking:
            size = stage.shape("1.weight")[-1]
            x = stage.conv(_channels_normed(stage, x, "0"), "1", size, 0)
        for block in (last[name] for name in last.children()):
            x = concat([x, _rdnet_block(block["layers.layers"], x, act) * block.per_channel("gamma")], 0)
    return m.linear(m.norm(x.mean(1, 2), "head.norm"), "head.fc")


def _channels_normed(m: Module, x: Value, name: str) -> Value:
    return m.norm(x.to_last(), name).to_first()


def _rdnet_block(m: Module, x: Value, act: str) -> Value:
    x = m.linear(activate(m.linear(m.norm(m.conv(x, "0").to_last(), "1"), "2"), act), "4").to_first()
    if "5" not in m:
        return x
    scale = activate(m.linear(x.mean(1, 2), "5.fc"), "hard_sigmoid")
    return x * scale.reshape(x.shape[0], 1, 1)


def dual_path(m: Module) -> Value:
    """Blocks whose first channels are added to what they read, and whose others are put beside it."""
    epsilon = m.net.epsilon["batch norm"] = m.net.assume("epsilon", 1e-3)
    narrow = "features.conv4_6" in m and "features.conv4_7" not in m  # the one network with another activation
    outer, act = m.net.assume("outer activation", "silu" if narrow else "relu"), m.net.assume("activation", "relu")
    classifier, m = m, m["features"]
    x = m.conv_norm(m.net.image(m.shape("conv1_1.conv.weight")[1], 224), "conv1_1.conv", "conv1_1.bn", outer, 2)
    x = pooled(x, "max", 3, 2, 1)
    width = 0
    for block in (m[child] for child in m.children() if "c1x1_a" in m[child]):
        width = _added_channels(block) or width
        x = _dual_block(block, x, act, width)
    x = activate(m.norm(x, "conv5_bn_ac.bn", epsilon), outer)
    return classifier.linear(x.mean(1, 2), "classifier")


def _added_channels(m: Module) -> int:
    """Channels that are added, which the first block of a stage tells; 0 for others.

    Its shortcut has as many, and twice as many as each block puts beside them.
    """
    name = next((name for name in ("c1x1_w_s1", "c1x1_w_s2") if name in m), None)
    if name is None:
        return 0
    if "c1x1_c1" in m:
        return m.shape("c1x1_c1.weight")[0]
    return 2 * m.shape("c1x1_c.conv.weight")[0] - m.shape(f"{name}.conv.weight")[0]


def _dual_block(m: Module, x: Value, act: str, width: int) -> Value:
    shrinks = "c1x1_w_s2" in m
    shortcut = "c1x1_w_s2" if shrinks else "c1x1_w_s1"

    def normed_first(y: Value, layer: str, stride: int = 1) -> Value:
        return m.conv(activate(m.norm(y, f"{layer}.bn"), act), f"{layer}.conv", stride)

    passing = normed_first(x, shortcut, 2 if shrinks else 1) if shortcut in m else x
    y = normed_first(normed_first(x, "c1x1_a"), "c3x3_b", 2 if shrinks else 1)
    if "c1x1_c1" in m:
        y = activate(m.norm(y, "c1x1_c.bn"), act)
        first, second = m.conv(y, "c1x1_c1"), m.conv(y, "c1x1_c2")
    else:
        y = normed_first(y, "c1x1_c")
        first, second = y.split(0, width, y.shape[0] - width)
    added = first.shape[0]
    old, older = passing.split(0, added, passing.shape[0] - added)
    return concat([old + first, older, second], 0)


SIGNATURE = (r"features\.conv0\.weight", r"features\.denseblock1\.denselayer1\.conv1\.weight", r"classifier\.weight")
FAMILIES = (
    Family("a DenseNet", SIGNATURE, densenet, OLD_NAMES),
    Family("an RDNet", (r"stem\.0\.weight", r"dense_stages\.0\.0\.dense_block0\.gamma", r"head\.fc\.weight"), rdnet),
    Family(
        "a dual-path network",
        (r"features\.conv1_1\.conv\.weight", r"features\.conv2_1\.c1x1_a\.conv\.weight"),
        dual_path,
    ),
)
