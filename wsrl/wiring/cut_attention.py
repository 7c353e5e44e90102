"""Attention whose rows lie head by head, or whose heads read parts of the channels."""

from wsrl.wiring.course import Course, Misfit, join, kind
from wsrl.wiring.dims import Value, size_of
from wsrl.wiring.tree import Node, sorted_children


def _cascade(run: Course, node: Node, value: Value) -> Value:
    """Each head reads a part of the channels and what the head before returns (Liu et al., EfficientViT, 2023)."""
    layers, depthwise = sorted_children(node.children["qkvs"]), sorted_children(node.children["dws"])
    width, rest = divmod(size_of(value), len(layers))
    if rest or len(depthwise) != len(layers):
        raise Misfit
    found: list[Value] = []
    for layer, depth, part in zip(layers, depthwise, run.cut(value, (width,) * len(layers)), strict=True):
        part = run.add(part, found[-1]) if found else part
        keys = depth.children["conv"].units
        rows = layer.children["conv"].units
        query, key, result = run.cut(
            run.stack(layer, part, (keys, keys, rows - 2 * keys)), (keys, keys, rows - 2 * keys)
        )
        run.add(run.stack(depth, query), key)
        found.append(result)
    run.apart(node.children["attention_biases"])
    return run.add(value, run.stack(node.children["proj"], join(found)))


def _by_heads(run: Course, node: Node, value: Value) -> Value:
    """Rows of queries, keys and values head by head, with biases of positions for each head, of which the code keeps a
    copy, so that heads stay in order (Graham et al., LeViT, 2021)."""
    fused = _part_of(node, "qkv", "queries_keys_values")
    pair, last = _part_of(node, "kv", "keys_values"), _part_of(node, "proj", "projection")
    source = fused or pair
    if source is None or last is None:
        raise Misfit
    heads = node.children["attention_biases"].own_shape[0]
    (values, uneven), (rows, rest) = divmod(_layer(last).fan_in, heads), divmod(_layer(source).units, heads)
    keys, odd = divmod(rows - values, 2 if fused else 1)
    if uneven or rest or odd or keys < 1:
        raise Misfit
    sizes = ((keys, keys, values) if fused else (keys, values)) * heads
    found = run.cut(run.stack(source, value, sizes), sizes)
    queries = _part_of(node, "q", "queries")
    if fused:
        run.add(join(found[::3]), join(found[1::3]))
    elif queries is not None:
        run.add(run.stack(queries, value, (keys,) * heads), join(found[::2]))
    for name in ("attention_biases", "attention_bias_idxs"):
        if name in node.children:
            run.apart(node.children[name])
    out = run.stack(last, join(found[2::3] if fused else found[1::2]))
    return run.add(value, out) if fused else out


def _part_of(node: Node, *names: str) -> Node | None:
    """A layer and its norm, by the names that libraries give it."""
    found = next((node.children[name] for name in names if name in node.children), None)
    return found.children.get("ln", found) if found is not None else None


def _part(run: Course, node: Node, value: Value) -> Value:
    """One head attends to some of the channels, and the others pass by (Yun and Ro, SHViT, 2024)."""
    parts = node.children
    width = max(parts["pre_norm"].own_shape)
    keys, odd = divmod(_layer(parts["qkv"]).units - width, 2)
    if odd:
        raise Misfit
    some, others = run.cut(value, (width, size_of(value) - width))
    run.norm(parts["pre_norm"], some, statistics=False)
    query, key, result = run.cut(run.stack(parts["qkv"], some, (keys, keys, width)), (keys, keys, width))
    run.add(query, key)
    return run.add(value, run.stack(parts["proj"], join((result, others))))


def _layer(node: Node) -> Node:
    for leaf in node.leaves():
        if leaf.kind in ("conv", "linear"):
            return leaf
    raise Misfit


KINDS = (
    kind("qkvs dws proj attention_biases", "proj.1.conv", _cascade),
    kind("attention_biases qkv", "qkv.linear", _by_heads),
    kind("attention_biases kv q", "kv.linear", _by_heads),
    kind("attention_biases queries_keys_values", "queries_keys_values.linear", _by_heads),
    kind("attention_biases keys_values queries", "keys_values.linear", _by_heads),
    kind("pre_norm qkv proj", "proj.1.c", _part),
)
