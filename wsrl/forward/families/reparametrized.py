"""RepVGG and MobileOne of timm, with the branches that training has (Ding et al. 2021; Vasu et al. 2023)."""

from wsrl.forward.families.blocks import squeeze_excite
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value


def branched(m: Module) -> Value:
    """Blocks that sum convolutions of two kernels and a norm; the stem and each stage halve the map."""
    act = m.net.assume("activation", "relu")
    first = m["stem.conv_kxk.0.conv" if "stem.conv_kxk.0" in m else "stem.conv_kxk.conv"]
    x = _block(m["stem"], m.net.image(first.shape("weight")[1], 224), act, 2)
    for stage in m.listed("stages"):
        for i, block in enumerate(stage.listed()):
            x = _block(block, x, act, 1 if i else 2)
    return m.linear(x.mean(1, 2), "head.fc")


def _block(m: Module, x: Value, act: str, stride: int) -> Value:
    branches = m.listed("conv_kxk") or [m["conv_kxk"]]
    branches += [m[name] for name in ("conv_1x1", "conv_scale") if name in m]
    y = m.norm(x, "identity") if "identity" in m else None
    for branch in branches:
        found = branch.conv_norm(x, "conv", "bn", "", stride)
        y = found if y is None else y + found
    if y is None:
        raise ValueError(f"the block {m.path!r} has no branches")
    return activate(squeeze_excite(m["attn"], y) if "attn" in m else y, act)


SIGNATURE = (r"stem\.conv_kxk\.(0\.)?conv\.weight", r"stages\.0\.0\.conv_kxk\.(0\.)?conv\.weight", r"head\.fc\.weight")
FAMILIES = (Family("a RepVGG or MobileOne", SIGNATURE, branched),)
