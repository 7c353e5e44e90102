"""Transformers whose maps shrink from stage to stage: PVT V2 and Twins, PiT and Visformer.

Wang et al. 2022; Chu et al. 2021; Heo et al. 2021; Chen et al. 2021. Names are timm's; PVT V2 is also of transformers.
"""

from wsrl.forward.families.blocks import attend, attention, heads_apart, perceptron
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value, concat
from wsrl.forward.families.vit import both_heads, transformer_block

PVT_NARROW = (32, 64, 160, 256)  # widths of the smallest, whose heads have 32 units; those of others have 64
PIT_HEADS = {64: 2, 96: 2, 144: 3, 256: 4}  # width of the first stage -> its heads
OF_TRANSFORMERS = (
    (r"^pvt_v2\.", ""),
    (r"^encoder\.layers\.0\.patch_embedding", "patch_embed"),
    (r"^encoder\.layers\.", "stages."),
    (r"patch_embedding", "downsample"),
    (r"(downsample|patch_embed)\.layer_norm", r"\1.norm"),
    (r"\.layer_norm_([12])", r".norm\1"),
    (r"attention\.(q|k|v)(uery|ey|alue)", r"attn.\1"),
    (r"attention\.spatial_reduction", "attn.sr"),
    (r"attention\.", "attn."),
    (r"\.layer_norm", ".norm"),
    (r"\.dense([12])", r".fc\1"),
    (r"dwconv\.dwconv", "dwconv"),
    (r"^classifier", "head"),
)


def pvt(m: Module) -> Value:
    """Keys and values are those of a map that a convolution shrinks; perceptrons convolve their hidden units."""
    net = m.net
    act = net.choose("activation", "gelu", "hidden_act")
    inner = net.choose("epsilon", 1e-6, "layer_norm_eps")
    net.epsilon["norm"] = inner if net.config.model_type else 1e-5  # timm has another where maps shrink
    told = net.config.get("num_attention_heads")
    stages = m.listed("stages")
    widths = tuple(stage.shape("blocks.0.norm1.weight")[0] for stage in stages)
    usual = [max(1, width // (32 if widths == PVT_NARROW else 64)) for width in widths]
    heads = [int(n) for n in told] if isinstance(told, list) and len(told) == len(stages) else usual
    net.know("heads", str(heads), "config") if isinstance(told, list) else net.assume("heads", str(heads))
    x = _shrunk(m["patch_embed"], net.image(m.shape("patch_embed.proj.weight")[1], 224, 32), 4)
    for stage, count in zip(stages, heads, strict=True):
        x = _shrunk(stage["downsample"], x, 2) if "downsample" in stage else x
        height, width, units = x.shape
        x = x.reshape(height * width, units)
        for block in stage.listed("blocks"):
            x = x + _reduced(block["attn"], block.norm(x, "norm1", inner), (height, width), count)
            mlp = block["mlp"]
            y = mlp.conv(mlp.linear(block.norm(x, "norm2", inner), "fc1").image(height, width), "dwconv").tokens()
            x = x + mlp.linear(activate(y, act), "fc2")
        x = stage.norm(x, "norm", inner).reshape(height, width, units).to_first()
    return m.linear(x.mean(1, 2), "head")


def _shrunk(m: Module, x: Value, stride: int) -> Value:
    """[channels, height, width] to a smaller [height, width, units]."""
    return m.norm(m.conv(x, "proj", stride).to_last(), "norm")


def _reduced(m: Module, x: Value, side: tuple[int, int], heads: int) -> Value:
    """Attention of all tokens to those of a smaller map."""
    q = heads_apart(m.linear(x, "q"), heads)
    if "sr" in m:
        size = m.shape("sr.weight")[-1]
        if size == 1:
            raise ValueError("its attention to a map of a fixed size is not known")
        x = m.norm(m.conv(x.image(*side), "sr", size, 0).tokens(), "norm")
    units = m.shape("q.weight")[0]
    k, v = m.linear(x, "kv").split(-1, units, units) if "kv" in m else (m.linear(x, name) for name in "kv")
    return m.linear(attend(q, heads_apart(k, heads), heads_apart(v, heads)), "proj")


def twins(m: Module) -> Value:
    """PCPVT: attention to a smaller map, and a convolution that tells positions behind the first block of a stage."""
    if "blocks.0.0.attn.qkv" in m:
        raise ValueError("attention within groups is not known")
    act = m.net.assume("activation", "gelu")
    m.net.assume("epsilon", 1e-6)
    x = m.net.image(m.shape("patch_embeds.0.proj.weight")[1], 224, 32)
    for embed, blocks, positions in zip(
        m.listed("patch_embeds"), m.listed("blocks"), m.listed("pos_block"), strict=True
    ):
        x = embed.norm(embed.conv(x, "proj", embed.shape("proj.weight")[-1], 0).to_last(), "norm")
        height, width, units = x.shape
        x = x.reshape(height * width, units)
        for i, block in enumerate(blocks.listed()):
            x = x + _reduced(block["attn"], block.norm(x, "norm1", 1e-6), (height, width), units // 64)
            x = x + perceptron(block["mlp"], block.norm(x, "norm2", 1e-6), act)
            if i == 0:
                seen = x.image(height, width)
                x = (positions.conv(seen, "proj.0") + seen).tokens()
        x = x.image(height, width)
    x = m.norm(x.tokens(), "norm", 1e-6)
    return m.linear(x.mean(0), "head")


def pit(m: Module) -> Value:
    """A vision transformer whose tokens a depthwise convolution halves between stages."""
    net = m.net
    act = net.assume("activation", "gelu")
    net.epsilon["norm"] = net.assume("epsilon", 1e-6)
    width, channels, patch, _ = m.shape("patch_embed.conv.weight")
    if width not in PIT_HEADS:
        raise ValueError(f"the heads of a PiT of width {width} are not known")
    net.assume("heads", PIT_HEADS[width])
    grid = m.shape("pos_embed")[-1]
    x = net.image(channels, 224, 1, (grid - 1) * (patch // 2) + patch)
    x = m.conv(x, "patch_embed.conv", patch // 2, 0) + m.tensor("pos_embed").reshape(width, grid, grid)
    count = m.shape("cls_token")[1]
    tokens = (x.tokens().slice(0, 0, count) * 0.0) + m.tensor("cls_token").reshape(count, width)
    for i, stage in enumerate(m.listed("transformers")):
        if "pool" in stage:
            x, tokens = stage["pool"].conv(x, "conv", 2), stage["pool"].linear(tokens, "fc")
        _, height, width = x.shape
        y = concat([tokens, x.tokens()], 0)
        for block in stage.listed("blocks"):
            y = transformer_block(block, y, act, PIT_HEADS[m.shape("cls_token")[2]] << i)
        tokens, rest = y.split(0, count, height * width)
        x = rest.image(height, width)
    tokens = m.norm(tokens, "norm")
    return both_heads(m, tokens) if "head_dist" in m else m.linear(tokens.slice(0, 0, 1).flatten(), "head")


def visformer(m: Module) -> Value:
    """Convolutions in the first stage, attention in the others."""
    act = m.net.assume("activation", "gelu")
    told = m.shape("pos_embed1")[-1] * m.shape("patch_embed1.proj.weight")[-1] * 2
    x = m.net.image(m.shape("stem.0.weight")[1], 224, 1, told)
    x = m["stem"].conv_norm(x, "0", "1", "relu", 2)
    heads = m.net.assume("heads", m.shape("patch_embed2.proj.weight")[0] // 64)
    for n in (1, 2, 3):
        embed = m[f"patch_embed{n}"]
        x = embed.norm(embed.conv(x, "proj", embed.shape("proj.weight")[-1], 0), "norm")
        x = x + m.tensor(f"pos_embed{n}").reshape(*x.shape)
        for block in m.listed(f"stage{n}"):
            if "attn" in block:
                y = attention(block["attn"], block.norm(x, "norm1").tokens(), heads)
                x = x + y.image(*x.shape[1:])
            mlp = block["mlp"]
            y = activate(mlp.conv(block.norm(x, "norm2"), "conv1"), act)
            y = activate(mlp.conv(y, "conv2"), act) if "conv2" in mlp else y
            x = x + mlp.conv(y, "conv3")
    return m.linear(m.norm(x, "norm").mean(1, 2), "head")


PVT = (r"patch_embed\.proj\.weight", r"stages\.0\.blocks\.0\.mlp\.dwconv\.weight", r"head\.weight")
FAMILIES = (
    Family("a PVT V2", PVT, pvt),
    Family("a PVT V2", PVT, pvt, OF_TRANSFORMERS),
    Family("a Twins", (r"patch_embeds\.0\.proj\.weight", r"pos_block\.0\.proj\.0\.weight", r"head\.weight"), twins),
    Family("a PiT", (r"patch_embed\.conv\.weight", r"transformers\.1\.pool\.conv\.weight", r"head\.weight"), pit),
    Family(
        "a Visformer", (r"stem\.0\.weight", r"patch_embed1\.proj\.weight", r"stage2\.0\.attn\.qkv\.weight"), visformer
    ),
)
