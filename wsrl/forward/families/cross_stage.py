"""Cross-stage partial networks of timm (Wang et al. 2020b): CSPResNet, CSPResNeXt and CSPDarknet."""

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value, concat

KNOWN = ("cspresnet50", "cspresnet50w", "cspresnext50", "cspdarknet53")


def cross_stage(m: Module) -> Value:
    """Stages in which blocks change one half of the channels, and the other half passes them by."""
    name = m.net.config.architecture
    if (name and name not in KNOWN) or "stem.conv2" in m:
        raise ValueError(f"what names and shapes do not tell of {name or 'its stem'!r} is not known")
    act = m.net.assume("activation", "leaky_relu")
    dark = "stages.0.blocks.0.conv3" not in m
    x = m.net.image(m.shape("stem.conv1.conv.weight")[1], 256)
    x = m.conv_norm(x, "stem.conv1.conv", "stem.conv1.bn", act, 1 if dark else 2)
    x = x if dark else pooled(x, "max", 3, 2, 1)
    for stage in m.listed("stages"):
        x = stage.conv_norm(x, "conv_down.conv", "conv_down.bn", act, 2) if "conv_down" in stage else x
        x = stage.conv_norm(x, "conv_exp.conv", "conv_exp.bn", act if dark else "")
        half = x.shape[0] // 2
        passing, y = x.split(0, half, half)
        for block in stage.listed("blocks"):
            y = _block(block, y, act)
        y = stage.conv_norm(y, "conv_transition_b.conv", "conv_transition_b.bn", act)
        x = stage.conv_norm(concat([passing, y], 0), "conv_transition.conv", "conv_transition.bn", act)
    return m.linear(x.mean(1, 2), "head.fc")


def _block(m: Module, x: Value, act: str) -> Value:
    y = m.conv_norm(m.conv_norm(x, "conv1.conv", "conv1.bn", act), "conv2.conv", "conv2.bn", act)
    return activate(m.conv_norm(y, "conv3.conv", "conv3.bn") + x, act) if "conv3" in m else y + x


SIGNATURE = (r"stem\.conv1\.conv\.weight", r"stages\.0\.conv_transition_b\.conv\.weight", r"head\.fc\.weight")
FAMILIES = (Family("a cross-stage partial network", SIGNATURE, cross_stage),)
