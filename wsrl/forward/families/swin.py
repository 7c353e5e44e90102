"""Swin transformers, both versions, of torchvision, timm and transformers (Liu et al. 2021, 2022). Names are timm's."""

from math import isqrt, log

import numpy as np

from wsrl.forward.families.blocks import attend, heads_apart, perceptron, queries_keys_values, window_bias
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value, concat

USUAL = {7: 224, 8: 256, 12: 384, 16: 256, 24: 384}  # window -> pixels a side
MASKED = -100.0  # score of a pair that the shift alone has brought together

OF_TORCHVISION = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.([1357])\.", lambda m: f"layers.{int(m[1]) // 2}.blocks."),
    (r"^features\.([246])\.", lambda m: f"layers.{int(m[1]) // 2}.downsample."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
)
OF_TRANSFORMERS = (
    (r"^swin(v2)?\.", ""),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.norm", "patch_embed.norm"),
    (r"^encoder\.layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample"),
    (r"^encoder\.", ""),
    (r"attention\.self\.relative_position_bias\.|attention\.relative_position_bias\.", "attn."),
    (r"attention\.(output\.dense|o_proj)", "attn.proj"),
    (r"attention\.(self\.)?(q|k|v)(uery|ey|alue|_proj)\b", r"attn.\2"),
    (r"attention\.self\.", "attn."),
    (r"continuous_position_bias_mlp", "cpb_mlp"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"^layernorm", "norm"),
    (r"^classifier", "head.fc"),
)


def swin(m: Module) -> Value:
    """Attention within windows, which every other block shifts by half; between stages four pixels become one."""
    net = m.net
    act = net.choose("activation", "gelu", "hidden_act")
    net.epsilon["norm"] = net.choose("epsilon", 1e-5, "layer_norm_eps")
    _, channels, patch, _ = m.shape("patch_embed.proj.weight")
    window = _window(m)
    x = net.image(channels, USUAL.get(window, 32 * window), patch)
    x = m.norm(m.conv(x, "patch_embed.proj", patch, 0).to_last(), "patch_embed.norm")
    for stage in m.listed("layers"):
        x = _merged(stage["downsample"], x) if "downsample" in stage else x
        for i, block in enumerate(stage.listed("blocks")):
            x = _block(block, x, act, window, shifted=i % 2 == 1)
    return m.linear(m.norm(x, "norm").mean(0, 1), "head.fc")


def _window(m: Module) -> int:
    """Pixels a side of windows, as the first table tells; of version 2 what the configuration says."""
    first = m["layers.0.blocks.0.attn"]
    if "relative_position_bias_table" in first:
        return (isqrt(first.shape("relative_position_bias_table")[0]) + 1) // 2
    name = m.net.config.architecture
    found = [int(part.removeprefix("window")) for part in name.split("_") if part[6:].isdigit() and "window" in part]
    return found[0] if found else m.net.choose("window", 8, "window_size")


def _merged(m: Module, x: Value) -> Value:
    """Each 2 x 2 pixels become one with twice the units; a norm lies before the dense layer or after it."""
    height, width, _ = x.shape
    x = x.pad((0, height % 2), (0, width % 2), (0, 0))
    rows = [x.slice(0, i, x.shape[0], 2) for i in (0, 1)]
    x = concat([rows[i].slice(1, j, x.shape[1], 2) for j in (0, 1) for i in (0, 1)], 2)
    if m.shape("norm.weight")[0] == x.shape[2]:
        return m.linear(m.norm(x, "norm"), "reduction")
    return m.norm(m.linear(x, "reduction"), "norm")


def _block(m: Module, x: Value, act: str, window: int, shifted: bool) -> Value:
    """Norms lie before attention and perceptron, of version 2 after them."""
    second = "logit_scale" in m["attn"]
    y = _windowed(m["attn"], x if second else m.norm(x, "norm1"), window, shifted)
    x = x + (m.norm(y, "norm1") if second else y)
    y = perceptron(m["mlp"], x if second else m.norm(x, "norm2"), act)
    return x + (m.norm(y, "norm2") if second else y)


def _windowed(m: Module, x: Value, window: int, shifted: bool) -> Value:
    """Attention within the windows of [height, width, units]."""
    height, width, units = x.shape
    window = min(window, height, width) if "logit_scale" in m else window
    x = x.pad((0, -height % window), (0, -width % window), (0, 0))
    padded, area = x.shape[:2], window * window
    shifts = [window // 2 if shifted and n > window else 0 for n in padded]
    for axis, shift in enumerate(shifts):
        x = x.roll(axis, -shift)
    rows, columns = (n // window for n in padded)
    x = x.reshape(rows, window, columns, window, units).transpose(0, 2, 1, 3, 4)
    x = _attention(m, x.refold(area, units), window, _mask(m, padded, window, shifts))
    x = x.refold(rows, columns, window, window, units).transpose(0, 2, 1, 3, 4).reshape(*padded, units)
    for axis, shift in enumerate(shifts):
        x = x.roll(axis, shift)
    return x.slice(0, 0, height).slice(1, 0, width) if padded != (height, width) else x


def _attention(m: Module, x: Value, window: int, mask: Value | None) -> Value:
    cosine = "logit_scale" in m
    heads = m.shape("logit_scale")[0] if cosine else m.shape("relative_position_bias_table")[1]
    m.net.know("heads", heads, "shapes")
    q, k, v = queries_keys_values(m, x)
    if cosine and "qkv.bias" in m:  # keys have no bias: the third that torchvision keeps for them is not used
        third = m.shape("qkv.bias")[0] // 3
        k = k - m.tensor("qkv.bias").slice(0, third, 2 * third)
    q, k, v = (heads_apart(part, heads) for part in (q, k, v))
    bias, scale = _continuous_bias(m, window) if cosine else _table_bias(m, window), None
    if cosine:
        largest = x.trace.constant(np.array(log(100), np.float32))
        scale, (q, k) = 1.0, (part / (part.norm(-1) + 1e-12) for part in (q, k))
        q = q * m.tensor("logit_scale").then("Min", largest).then("Exp").reshape(heads, 1, 1)
    return m.linear(attend(q, k, v, scale, bias if mask is None else mask + bias), "proj")


def _positions(window: int) -> np.ndarray:
    """Row of a table of (2 window - 1)^2 relative positions for each pair of pixels of a window."""
    y, x = np.divmod(np.arange(window * window), window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + (x[:, None] - x + window - 1)


def _table_bias(m: Module, window: int) -> Value:
    return window_bias(m.tensor("relative_position_bias_table"), _positions(window))


def _continuous_bias(m: Module, window: int) -> Value:
    """Biases that a perceptron makes of relative positions on a logarithmic scale (Liu et al. 2022, equation 4)."""
    name = m.net.config.get("pretrained_window_sizes")
    if isinstance(name, list) and any(name):
        raise ValueError("windows of another size than in pretraining are not known")
    offsets = np.arange(1 - window, window, dtype=np.float64) * 8 / max(window - 1, 1)
    offsets = np.sign(offsets) * np.log2(np.abs(offsets) + 1) / 3
    table = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    trace = m.net.trace
    x = Value(trace, trace.constant(table), table.shape, batched=False)
    x = m.linear(activate(m.linear(x, "cpb_mlp.0"), "relu"), "cpb_mlp.2")
    return window_bias(x, _positions(window)).then("Sigmoid") * 16


def _mask(m: Module, grid: tuple[int, ...], window: int, shifts: list[int]) -> Value | None:
    """[windows, 1, pixels, pixels]: hides from one another what the shift has brought together from different ends."""
    if not any(shifts):
        return None
    parts = []
    for length, shift in zip(grid, shifts, strict=True):
        place = np.arange(length)
        parts.append((place >= length - window).astype(int) + (place >= length - shift) if shift else place * 0)
    regions = parts[0][:, None] * 3 + parts[1]
    rows, columns = (n // window for n in grid)
    regions = regions.reshape(rows, window, columns, window).swapaxes(1, 2).reshape(rows * columns, 1, -1)
    mask = np.where(regions[..., None] != regions[..., None, :], MASKED, 0).astype(np.float32)
    trace = m.net.trace
    return Value(trace, trace.constant(mask), mask.shape, batched=False)


SIGNATURE = (r"patch_embed\.proj\.weight", r"layers\.0\.blocks\.0\.attn\.(qkv|q)\.weight", r"head\.fc\.weight")
FAMILIES = tuple(
    Family("a Swin transformer", SIGNATURE, swin, names) for names in ((), OF_TORCHVISION, OF_TRANSFORMERS)
)
