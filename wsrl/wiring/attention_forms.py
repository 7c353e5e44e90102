"""Attention of uncommon forms, of which names and sizes tell how queries, keys and values meet."""

from wsrl.wiring.attention_heads import SMALLEST
from wsrl.wiring.course import Course, Misfit, join, kind
from wsrl.wiring.dims import Dim, Value, size_of, view
from wsrl.wiring.tree import Node, sorted_children

CHANNELS_PER_HEAD = 30  # in LowFormer, which takes as many heads as that gives


def _pooled_heads(run: Course, node: Node, value: Value) -> Value:
    """Convolutions pool queries, keys and values of each head, to which queries are added (Li et al., MViTv2, 2022)."""
    parts = node.children
    head = parts["pool_q"].units
    rows, width = run.layer(parts["qkv"], value), parts["proj"].fan_in
    if width % head or size_of(rows) != 3 * width:
        raise Misfit
    unit = (Dim(head),)
    run.add(rows, (view(unit[0], outer=3 * width // head),))
    for letter in "qkv":
        if f"pool_{letter}" in parts:
            run.layer(parts[f"pool_{letter}"], unit)
        if f"norm_{letter}" in parts:
            run.norm(parts[f"norm_{letter}"], unit, statistics=False)
    for name in ("rel_pos_h", "rel_pos_w"):
        if name in parts:
            run.table(parts[name], unit)
    return run.layer(parts["proj"], (view(unit[0], outer=width // head),))


def _gated_positions(run: Course, node: Node, value: Value) -> Value:
    """Heads mix what queries and keys tell with what places tell (d'Ascoli et al., ConViT, 2021)."""
    parts, width = node.children, size_of(value)
    heads = parts["pos_proj"].units
    if width % heads:
        raise Misfit
    keys, values = (view(Dim(width // heads), outer=heads) for _ in range(2))
    run.add(run.layer(parts["qk"], value, (width, width)), (keys, keys))
    run.add(run.layer(parts["v"], value), (values,))
    for name in ("pos_proj", "gating_param"):
        run.apart(parts[name])
    return run.add(value, run.layer(parts["proj"], (values,)))


def _additive(run: Course, node: Node, value: Value) -> Value:
    """A weighted sum of queries multiplies keys (Shaker et al., SwiftFormer, 2023)."""
    parts = node.children
    query = run.layer(parts["to_query"], value)
    key = run.add(run.layer(parts["to_key"], value), query)
    run.scale(parts["w_g"], query)
    query = run.add(run.layer(parts["proj"], key), query)
    return run.add(value, run.layer(parts["final"], query))


def _several_scales(run: Course, node: Node, value: Value) -> Value:
    """Linear attention on queries, keys and values of several scales, side by side (Cai et al., EfficientViT, 2023)."""
    parts = node.children
    scales = [scale.children for scale in sorted_children(parts["aggreg"])]
    head = scales[0]["1"].fan_in
    found = [run.layer(parts["qkv"].children["conv"], value)]
    heads, rest = divmod(size_of(found[0]), 3 * head)
    if rest or any(scale["1"].fan_in != head for scale in scales):
        raise Misfit
    run.add(found[0], (view(Dim(head), outer=3 * heads),))
    found += [run.layer(scale["1"], run.layer(scale["0"], found[0])) for scale in scales]
    units = [rows[0].find()[0] for rows in found]
    if any(unit.size * 3 * heads != size_of(rows) for unit, rows in zip(units, found, strict=True)):
        raise Misfit
    return run.add(value, run.stack(parts["proj"], join((view(unit, outer=heads),) for unit in units)))


def _lambdas(run: Course, node: Node, value: Value) -> Value:
    """Queries read linear maps that keys, values and places make (Bello, LambdaNetworks, 2021)."""
    parts = node.children
    places = parts["conv_lambda"]
    keys, values = places.units, max(parts["norm_v"].own_shape)
    queries, rest = divmod(parts["qkv"].units - keys - values, keys)
    if rest or queries < 1 or places.fan_in != 1 or len(places.weight) != 5:
        raise Misfit
    sizes = (queries * keys, keys, values)
    query, key, result = run.cut(run.layer(parts["qkv"], value, sizes), sizes)
    run.add(query, (view(key[0], outer=queries),))
    run.norm(parts["norm_q"], query)
    run.norm(parts["norm_v"], result)
    run.apart(places)
    run.along(places, key)
    return (view(result[0], outer=queries),)


def _halo(run: Course, node: Node, value: Value) -> Value:
    """Blocks of places attend to those around; keys and values lie head by head (Vaswani et al., HaloNet, 2021)."""
    parts = node.children
    tables = parts["pos_embed"].children
    head = tables["height_rel"].own_shape[-1]
    heads, rest = divmod(parts["q"].units, head)
    rows, uneven = divmod(parts["kv"].units, heads)
    if rest or uneven or rows <= head:
        raise Misfit
    keys, values = Dim(head), Dim(rows - head)
    run.add(run.layer(parts["q"], value), (view(keys, outer=heads),))
    run.add(run.layer(parts["kv"], value, (head, rows - head) * heads), (keys, values) * heads)
    for name in ("height_rel", "width_rel"):
        run.table(tables[name], (keys,))
    return (view(values, outer=heads),)


def _shared_directions(run: Course, node: Node, value: Value) -> Value:
    """Queries, keys and values in maps of their own, whose heads nothing tells (Chen et al., CrossViT, 2021)."""
    parts, width = node.children, size_of(value)
    if width % SMALLEST:
        raise Misfit
    keys, values = (view(Dim(SMALLEST), outer=width // SMALLEST) for _ in range(2))
    for name, rows in (("wq", keys), ("wk", keys), ("wv", values)):
        run.add(run.layer(parts[name], value), (rows,))
    return run.add(value, run.layer(parts["proj"], (values,)))


def _coarse(run: Course, node: Node, value: Value) -> Value:
    """Attention between fewer places, rows head by head; maps are widened again, channel by channel (Nottebaum et al.,
    LowFormer, 2025)."""
    parts, wide = node.children, node.children["upsampling"]
    inner, rest = divmod(parts["pwise"].units, 3)
    heads = max(1, inner // CHANNELS_PER_HEAD)
    head, uneven = divmod(inner, heads)
    if rest or uneven:
        raise Misfit
    rows = (head, head, head) * heads
    found = run.cut(run.layer(parts["pwise"], run.stack(parts["conv_proj"], value), rows), rows)
    run.add(join(found[::3]), join(found[1::3]))
    out = join(found[2::3])
    if "o_proj" in parts:
        out = run.layer(parts["o_proj"], out)
    elif wide.kind == "conv":
        return run.add(value, run.widen(wide, out))
    return run.add(value, run.stack(wide, out))


KINDS = (
    kind("conv_proj pwise upsampling", "conv_proj.conv", _coarse),
    kind("pool_q qkv proj", "qkv", _pooled_heads),
    kind("qk v proj pos_proj gating_param", "qk", _gated_positions),
    kind("to_query to_key w_g proj final", "to_query", _additive),
    kind("qkv aggreg proj", "qkv.conv", _several_scales),
    kind("qkv norm_q norm_v conv_lambda", "qkv", _lambdas),
    kind("q kv pos_embed", "q", _halo),
    kind("wq wk wv proj", "wq", _shared_directions),
)
