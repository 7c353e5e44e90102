"""Densely connected networks of torchvision and timm (Huang et al. 2017)."""

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


SIGNATURE = (r"features\.conv0\.weight", r"features\.denseblock1\.denselayer1\.conv1\.weight", r"classifier\.weight")
FAMILIES = (Family("a DenseNet", SIGNATURE, densenet, OLD_NAMES),)
