"""RegNet X and Y of torchvision, timm and transformers (Radosavovic et al. 2020). Names are timm's."""

from wsrl.forward.families.blocks import squeeze_excite
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value

OF_TORCHVISION = (
    (r"^stem\.0\.", "stem.conv."),
    (r"^stem\.1\.", "stem.bn."),
    (r"^trunk_output\.block\d+\.block(\d+)-(\d+)\.", r"s\1.b\2."),
    (r"\.proj\.0\.", ".downsample.conv."),
    (r"\.proj\.1\.", ".downsample.bn."),
    (r"\.f\.([abc])\.([01])\.", lambda m: f".conv{'abc'.index(m[1]) + 1}.{('conv', 'bn')[int(m[2])]}."),
    (r"\.f\.se\.", ".se."),
    (r"^fc\.", "head.fc."),
)
OF_TRANSFORMERS = (
    (r"^regnet\.", ""),
    (r"^embedder\.embedder\.", "stem."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", lambda m: f"s{int(m[1]) + 1}.b{m[2]}."),
    (r"\.layer\.2\.attention\.0\.", ".se.fc1."),
    (r"\.layer\.2\.attention\.2\.", ".se.fc2."),
    (r"\.layer\.([012])\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.3\.", ".conv3."),
    (r"\.shortcut\.", ".downsample."),
    (r"convolution", "conv"),
    (r"normalization", "bn"),
    (r"^classifier\.1\.", "head.fc."),
)


def regnet(m: Module) -> Value:
    """Bottlenecks of grouped convolutions; each stage begins by shrinking the map to half."""
    act = m.net.choose("activation", "relu", "hidden_act", "act_layer")
    name = m.net.config.architecture
    if name and not name.startswith(("regnetx", "regnety", "regnet_")):
        raise ValueError(f"what names and shapes do not tell of {name!r} is not known")
    m.net.assume("strides", "2, 2, 2, 2, 2")
    x = m.net.image(m.shape("stem.conv.weight")[1], 224)
    x = m.conv_norm(x, "stem.conv", "stem.bn", act, 2)
    for stage in ("s1", "s2", "s3", "s4"):
        for block in (m[stage][child] for child in m[stage].children()):
            first = "downsample" in block
            stride = 2 if first else 1
            skip = block.conv_norm(x, "downsample.conv", "downsample.bn", "", stride) if first else x
            x = block.conv_norm(x, "conv1.conv", "conv1.bn", act)
            x = block.conv_norm(x, "conv2.conv", "conv2.bn", act, stride)
            x = squeeze_excite(block["se"], x) if "se" in block else x
            x = activate(block.conv_norm(x, "conv3.conv", "conv3.bn") + skip, act)
    return m.linear(x.mean(1, 2), "head.fc")


SIGNATURE = (r"stem\.conv\.weight", r"s1\.b\d\.conv1\.conv\.weight", r"head\.fc\.weight")
FAMILIES = tuple(Family("a RegNet", SIGNATURE, regnet, renames) for renames in ((), OF_TORCHVISION, OF_TRANSFORMERS))
