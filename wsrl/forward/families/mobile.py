"""MobileNet V1 to V3, MNASNet, MixNet, FBNet and EfficientNet as torchvision, timm and transformers name them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from math import ceil

from wsrl.forward.families.family import Family
from wsrl.forward.families.inverted import Block, Kind, Layout, Unit, features
from wsrl.forward.families.module import Module, Padding, activate
from wsrl.forward.families.value import Value

USUAL = 224  # pixels a side
PIXELS = {  # a side for EfficientNets, by blocks and units of the last one; those without squeezes have fewer blocks
    **{(16, 320): 224, (23, 320): 240, (23, 352): 260, (26, 384): 300, (32, 448): 380, (39, 512): 456},
    **{(45, 576): 528, (55, 640): 600, (21, 320): 240, (21, 352): 260, (24, 384): 280, (30, 448): 300},
}
SMALL_V2 = 16  # units of their first stage
TF_EPSILON = 1e-3  # TensorFlow's, in networks that were first trained there

V2, MNASNET, EFFICIENTNET = Kind("relu6"), Kind("relu"), Kind("silu")
MIXNET = Kind("silu", outer="relu", early=2)
V3 = Kind("hard_swish", excite="relu", gate="hard_sigmoid")
TIMM_KINDS = (  # names of architectures, the first that matches
    (r"(tf_)?efficientnet_(e[sml]|el)(_|$)|mobilenet_edgetpu", MNASNET),
    (r"(tf_)?efficientnet_lite|mobilenetv[12]", V2),
    (r"(tf_)?efficientnet|tinynet", EFFICIENTNET),
    (r"(tf_)?mixnet", MIXNET),
    (r"fbnetv3", replace(V3, excite="")),
    (r"lcnet", V3),
    (r"tf_mobilenetv3_.*minimal", MNASNET),
    (r"mobilenetv3_rw", replace(V3, excite="", first_skips=False, epsilon=TF_EPSILON)),
    (r"(tf_)?mobilenetv3|hardcorenas", V3),
    (r"(se)?mnasnet|spnasnet|fbnetc", MNASNET),
)
SMALL_STRIDES = (2, 2, 2, 1, 2)  # of the small MobileNet V3, without the convolution at the end
TIMM_BLOCKS = (  # convolutions with their norms in the order in which they run
    (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("se", ""), ("conv_pwl", "bn3")),
    (("conv_exp", "bn1"), ("se", ""), ("conv_pwl", "bn2")),
    (("conv_dw", "bn1"), ("se", ""), ("conv_pw", "bn2")),
    (("conv", "bn1"),),
)


def of_timm(m: Module) -> Value:
    """Names `blocks.STAGE.BLOCK.conv_dw`, ..."""
    stages = [[_timm_block(block) for block in stage.listed()] for stage in m.listed("blocks")]
    pooled_first = "bn2" not in m and "conv_head" in m  # the last convolution reads means, as in MobileNet V3
    kind = _timm_kind(m, pooled_first)
    name = m.net.config.architecture
    if name.startswith("tf_") or (not name and _is_small_v2(m)):
        m.net.same = True
        kind = replace(kind, epsilon=TF_EPSILON)
    ends_wide = len(stages[-1]) == 1 and len(stages[-1][0]) == 1 and pooled_first
    if ends_wide and len(stages) == 6:
        kind = replace(kind, strides=(*SMALL_STRIDES, 1))
    if kind.activation == V3.activation and ends_wide and len(stages[0]) == 1:
        kind = replace(kind, early=2 if len(stages) == 6 else 3)
    separable = all(_is_separable(block) for stage in stages for block in stage)
    last = Unit(m["conv_head"], m["bn2"]) if "bn2" in m else None
    layout = Layout(Unit(m["conv_stem"], m["bn1"]), stages, last)
    x = features(m, layout, replace(kind, linear=not separable), USUAL).mean(1, 2)
    if pooled_first:
        x = activate(m.linear(x, "conv_head"), kind.activation)
    return m.linear(x, "classifier")


def _is_small_v2(m: Module) -> bool:
    """Whether it is of EfficientNet V2 B0 to B3, of which TensorFlow's alone were trained; others begin wider."""
    return "blocks.0.0.conv" in m and m.shape("blocks.0.0.conv.weight")[0] == SMALL_V2


def _timm_block(m: Module) -> Block:
    for form in TIMM_BLOCKS:
        if all(name in m for pair in form for name in pair if name and name != "se"):
            return [
                Unit(excite=(m[conv], "conv_reduce", "conv_expand")) if conv == "se" else Unit(m[conv], m[norm])
                for conv, norm in form
                if conv in m
            ]
    raise ValueError(f"the block {m.path!r} is not known")


def _is_separable(block: Block) -> bool:
    """Whether it begins with a depthwise convolution and has one other, as all blocks of MobileNet V1 have."""
    first, *rest = [u.conv for u in block if u.conv is not None]
    return len(rest) == 1 and "weight" in first and first.shape("weight")[1] == 1


def _timm_kind(m: Module, pooled_first: bool) -> Kind:
    """By the name of the architecture, else by where there are squeezes, wide kernels and biases."""
    name = m.net.config.architecture
    if name:
        found = next((kind for pattern, kind in TIMM_KINDS if re.match(pattern, name)), None)
        if found is None:
            raise ValueError(f"what names and shapes do not tell of {name!r} is not known")
        return found
    squeezes = any(".se." in tensor for tensor in m.net.shapes)
    if pooled_first:
        if not squeezes:
            return MNASNET
        of_fbnet = "conv_head.bias" not in m
        return replace(V3, excite="") if of_fbnet else V3
    if squeezes and ("blocks.0.0.se" in m or "blocks.1.0.conv_exp" in m):
        return EFFICIENTNET
    if any(re.search(r"conv_(dw|pw)\.\d", tensor) for tensor in m.net.shapes):
        return MIXNET
    if squeezes or "blocks.1.0.conv_exp" in m:
        return MNASNET
    expansion = m["blocks.1.0"]
    wide = "conv_pw" in expansion and expansion.shape("conv_pw.weight")[0] == 6 * expansion.shape("conv_pw.weight")[1]
    return V2 if "blocks.0.0.conv_pwl" not in m and (wide or "conv_pwl" not in expansion) else MNASNET


def of_torchvision(m: Module) -> Value:
    """Names `features.3.conv.0.0`, `features.3.block.0.0`, `features.3.0.block.0.0` or, of MNASNet, `layers.8.0`..."""
    of_mnasnet = "layers" in m
    listed = m.listed("layers" if of_mnasnet else "features")
    stem, last = _units(listed[0]), _units(listed[-1])
    kind, sizes = MNASNET, None
    if of_mnasnet:
        stem = [Unit(listed[0], listed[1])]
        last = [Unit(listed[-2], listed[-1])]
        blocks = [[[Unit(listed[2], listed[3]), Unit(listed[4], listed[5])]]]
        stages = blocks + [[_units(block) for block in stack.listed()] for stack in listed[6:-2]]
    elif "conv" in listed[1]:
        kind, sizes = V2, (1, 2, 3, 4, 3, 3, 1)
        stages = []
    elif "block" in listed[1]:
        small = len(listed) == 13
        sizes = (1, 2, 3, 2, 3) if small else (1, 2, 3, 4, 2, 3)
        strides = SMALL_STRIDES if small else (1, 2, 2, 2, 1, 2)
        kind = replace(V3, epsilon=TF_EPSILON, strides=strides, early=2 if small else 3)
        stages = []
    else:
        stages = [[_units(block) for block in stage.listed()] for stage in listed[1:-1]]
        fused = stages[0][0][0].kernel > 1 and not _is_separable(stages[0][0])
        wide = last[0].conv is not None and last[0].conv.shape("weight")[0] >= 2048
        kind = replace(EFFICIENTNET, epsilon=TF_EPSILON if fused or wide else EFFICIENTNET.epsilon)
    if sizes is not None:
        if sum(sizes) != len(listed) - 2:
            raise ValueError(f"the stages of {len(listed) - 2} blocks are not known")
        blocks = iter(_units(block) for block in listed[1:-1])
        stages = [[next(blocks) for _ in range(size)] for size in sizes]
    x = features(m, Layout(stem[0], stages, last[0]), kind, USUAL).mean(1, 2)
    layers = m.listed("classifier")
    for layer in layers:
        x = layer.linear(x if layer is layers[0] else activate(x, kind.activation))
    return x


def _units(m: Module) -> list[Unit]:
    """Convolutions with their norms and squeezes below a module, in the order of their numbers."""
    if "fc1" in m:
        return [Unit(excite=(m, "fc1", "fc2"))]
    if "weight" in m:
        return [Unit(m)]
    found: list[Unit] = []
    for name in m.children():
        for unit in _units(m[name]):
            is_norm = unit.conv is not None and len(unit.conv.shape("weight")) == 1
            if is_norm and found and found[-1].norm is None:
                found[-1] = Unit(found[-1].conv, unit.conv)
            else:
                found.append(unit)
    return found


def mobilenet_of_transformers(m: Module) -> Value:
    """Names `layer.3.conv_3x3.convolution`, ... of version 2; of version 1 `layer.3.convolution`."""
    m.net.same = m.net.choose("padding", True, "tf_padding")
    listed = m.listed("layer")
    if "conv_stem.first_conv" in m:
        names = ("expand_1x1", "conv_3x3", "reduce_1x1")
        stem = _named(m["conv_stem.first_conv"])
        blocks = [[_named(b[name]) for name in names if name in b] for b in (m["conv_stem"], *listed)]
        strides, last = (1, 2, 1, 2, 1, 1, 2, *[1] * 6, 2, 1, 1, 1), _named(m["conv_1x1"])
    else:
        stem = _named(m["conv_stem"])
        blocks = [[_named(a), _named(b)] for a, b in zip(listed[::2], listed[1::2], strict=True)]
        strides, last = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1), None
    kind = Kind("relu6", epsilon=TF_EPSILON, strides=strides, linear=last is not None)
    m.net.choose("epsilon", kind.epsilon, "layer_norm_eps")
    x = features(m, Layout(stem, [[block] for block in blocks], last), kind, USUAL)
    return m.linear(x.mean(1, 2), "classifier")


def _named(m: Module) -> Unit:
    return Unit(m["convolution"], m["normalization"])


def efficientnet_of_transformers(m: Module) -> Value:
    """Names `encoder.blocks.3.depthwise_conv.depthwise_conv`, ...; maps that shrink are padded as TensorFlow does."""
    names = (
        ("expansion.expand_conv", "expansion.expand_bn"),
        ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
        ("squeeze_excite", ""),
        ("projection.project_conv", "projection.project_bn"),
    )
    blocks = [
        [
            Unit(excite=(b[conv], "reduce", "expand")) if not norm else Unit(b[conv], b[norm])
            for conv, norm in names
            if conv in b
        ]
        for b in m.listed("encoder.blocks")
    ]
    sizes = _block_counts(m, blocks)
    centered = m.net.config.get("depthwise_padding")
    shrinking: dict[int, Padding] = {}
    for i, block in enumerate(blocks):
        half = block[0].kernel // 2 if block[0].kernel > 1 else block[1].kernel // 2
        before = half if isinstance(centered, list) and i in centered else half - 1
        shrinking[i] = (before, before, half, half)
    rest = iter(blocks)
    stages = [[next(rest) for _ in range(size)] for size in sizes]
    m.net.same = True  # the stem
    layout = Layout(
        Unit(m["embeddings.convolution"], m["embeddings.batchnorm"]),
        stages,
        Unit(m["encoder.top_conv"], m["encoder.top_bn"]),
    )
    kind = replace(EFFICIENTNET, epsilon=TF_EPSILON)
    return m.linear(features(m, layout, kind, USUAL, shrinking).mean(1, 2), "classifier")


def _block_counts(m: Module, blocks: Sequence[Block]) -> list[int]:
    """Blocks of each stage: from the configuration, else by where the number of channels changes."""
    repeats = m.net.config.get("num_block_repeats")
    depth = m.net.config.get("depth_coefficient")
    if isinstance(repeats, list) and isinstance(depth, int | float):
        sizes = [ceil(depth * n) for n in repeats if isinstance(n, int)]
    else:
        units = [block[-1].conv.shape("weight")[0] for block in blocks if block[-1].conv is not None]
        sizes = [len(list(group)) for _, group in groupby(units)]
    if sum(sizes) != len(blocks):
        raise ValueError(f"the stages of its {len(blocks)} blocks are not known")
    return sizes


def efficientnet_of_flat_blocks(m: Module) -> Value:
    """Names `_blocks.3._depthwise_conv`, ... of the packages efficientnet_pytorch and efficientnet_lite_pytorch.

    They pad by what the last windows of images of the usual size lack, so that this size belongs to the network.
    """
    names = (
        ("_expand_conv", "_bn0"),
        ("_depthwise_conv", "_bn1"),
        ("_se_reduce", ""),
        ("_project_conv", "_bn2"),
    )
    blocks = [
        [
            Unit(excite=(b, "_se_reduce", "_se_expand")) if not norm else Unit(b[conv], b[norm])
            for conv, norm in names
            if conv in b
        ]
        for b in m.listed("_blocks")
    ]
    rest = iter(blocks)
    stages = [[next(rest) for _ in range(size)] for size in _block_counts(m, blocks)]
    m.net.same = True
    squeezes = "_se_reduce" in m["_blocks.0"]
    kind = replace(EFFICIENTNET if squeezes else V2, epsilon=TF_EPSILON)
    layout = Layout(Unit(m["_conv_stem"], m["_bn0"]), stages, Unit(m["_conv_head"], m["_bn1"]))
    last = m.shape(f"_blocks.{len(blocks) - 1}._project_conv.weight")[0]
    pixels = PIXELS.get((len(blocks), last), USUAL)
    return m.linear(features(m, layout, kind, pixels).mean(1, 2), "_fc")


STEM = r"conv_stem\.weight"
FAMILIES = (
    Family("an EfficientNet or MobileNet", (STEM, r"blocks\.0\.0\..*", r"classifier\.weight"), of_timm),
    Family("a MobileNet V2", (r"features\.0\.0\.weight", r"features\.1\.conv\.0\.0\.weight"), of_torchvision),
    Family("a MobileNet V3", (r"features\.0\.0\.weight", r"features\.1\.block\.0\.0\.weight"), of_torchvision),
    Family("an EfficientNet", (r"features\.0\.0\.weight", r"features\.1\.0\.block\.0\.0\.weight"), of_torchvision),
    Family("an MNASNet", (r"layers\.8\.0\.layers\.0\.weight", r"classifier\.1\.weight"), of_torchvision),
    Family(
        "a MobileNet",
        (r"conv_stem\.(first_conv\.)?convolution\.weight", r"classifier\.weight"),
        mobilenet_of_transformers,
        ((r"^mobilenet_v[12]\.", ""),),
    ),
    Family(
        "an EfficientNet",
        (r"embeddings\.convolution\.weight", r"encoder\.blocks\.0\.depthwise_conv\..*", r"classifier\.weight"),
        efficientnet_of_transformers,
        ((r"^efficientnet\.", ""),),
    ),
    Family(
        "an EfficientNet",
        (r"_conv_stem\.weight", r"_blocks\.0\._depthwise_conv\.weight", r"_fc\.weight"),
        efficientnet_of_flat_blocks,
    ),
)
