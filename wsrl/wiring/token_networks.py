"""Networks, and stages of them, in which several streams of tokens meet."""

from wsrl.wiring.course import Course, Misfit, kind
from wsrl.wiring.dims import Dim, Value, size_of, view
from wsrl.wiring.tree import Node, sorted_children


def _pixels_in_patches(run: Course, node: Node, value: Value) -> Value:
    """Tokens of pixels, of which those of a patch are read together by its own token (Han et al., TNT, 2021)."""
    parts = node.children
    pixels = run.layer(parts["pixel_embed"].children["proj"], value)
    run.over(parts["pixel_pos"], pixels, 1)
    width = size_of(pixels)
    patches = _read_pixels(run, parts, pixels)
    for name in ("cls_token", "patch_pos"):
        run.table(parts[name], patches)
    for block in sorted_children(parts["blocks"]):
        inner = block.children
        pixels = _residual(run, inner["norm_in"], inner["attn_in"], pixels)
        pixels = _residual(run, inner["norm_mlp_in"], inner["mlp_in"], pixels)
        run.add(patches, _read_pixels(run, inner, pixels))
        patches = _residual(run, inner["norm_out"], inner["attn_out"], patches)
        patches = _residual(run, inner["norm_mlp"], inner["mlp"], patches)
    if size_of(pixels) != width:
        raise Misfit
    run.norm(parts["norm"], patches, statistics=False)
    return run.layer(parts["head"], patches) if "head" in parts else patches


def _read_pixels(run: Course, parts: dict[str, Node], pixels: Value) -> Value:
    """All pixels of a patch side by side, normed before or after that."""
    layer, norm = parts["proj"], parts["norm1_proj"]
    count, rest = divmod(layer.fan_in, size_of(pixels))
    if rest:
        raise Misfit
    side_by_side = tuple(view(dim, outer=count) for dim in pixels) if len(pixels) == 1 else pixels * count
    run.norm(norm, pixels if max(norm.own_shape) == size_of(pixels) else side_by_side, statistics=False)
    out = run.layer(layer, side_by_side)
    if "norm2_proj" in parts:
        run.norm(parts["norm2_proj"], out, statistics=False)
    return out


def _residual(run: Course, norm: Node, block: Node, value: Value) -> Value:
    run.norm(norm, value, statistics=False)
    return run.add(value, run.run(block, value, size_of(value)))


def _global_queries(run: Course, node: Node, value: Value) -> Value:
    """Queries of a whole image, which keep the order of the channels (Hatamizadeh et al., GC ViT, 2023)."""
    parts = node.children
    if "downsample" in parts:
        value = run.run(parts["downsample"], value, parts["downsample"].children["reduction"].units)
    blocks = sorted_children(parts["blocks"])
    heads = _heads(blocks[0])
    head, rest = divmod(size_of(value), heads)
    if rest:
        raise Misfit
    unit = Dim(head)
    run.add(value, (view(unit, outer=heads),))
    for block in sorted_children(parts["global_block"].children["blocks"]):
        value = _inverted(run, block, value)
    if "global_norm" in parts:
        run.norm(parts["global_norm"], value, statistics=False)
    for block in blocks:
        inner, attention = block.children, block.children["attn"].children
        run.norm(inner["norm1"], value, statistics=False)
        result = view(Dim(head), outer=heads)
        keys = value if attention["qkv"].units == 2 * size_of(value) else (view(Dim(head), outer=heads),)
        rows = keys if keys is value else keys * 2
        run.add(run.layer(attention["qkv"], value, _sizes((*rows, result))), (*rows, result))
        run.apart(attention["rel_pos"])
        value = run.add(value, run.layer(attention["proj"], (result,)))
        run.norm(inner["norm2"], value, statistics=False)
        value = run.add(value, run.run(inner["mlp"], value, size_of(value)))
        for name in ("ls1", "ls2"):
            if name in inner:
                run.scale(inner[name], value)
    if "norm" in parts:
        run.norm(parts["norm"], value, statistics=False)
    return value


def _inverted(run: Course, node: Node, value: Value) -> Value:
    parts = node.children
    found = run.gate(parts["se"], run.layer(parts["conv_dw"], value))
    return run.add(value, run.layer(parts["conv_pw"], found))


def _heads(block: Node) -> int:
    """Heads of a block, of which each has its own offsets by relative positions."""
    tables = [leaf.own_shape for leaf in block.children["attn"].children["rel_pos"].leaves()]
    if len(tables) != 1 or len(tables[0]) != 2:
        raise Misfit
    return tables[0][1]


def _sizes(value: Value) -> list[int]:
    return [dim.size for dim in value]


def _crossed(run: Course, node: Node, value: Value) -> Value:
    """Two streams whose first tokens attend to each other's others (Chen et al., CrossViT, 2021)."""
    parts = node.children
    embeds = sorted_children(parts["patch_embed"])
    streams = [run.run(embed, value, _last(embed).units) for embed in embeds]
    for i, stream in enumerate(streams):
        run.table(parts[f"cls_token_{i}"], stream)
        run.table(parts[f"pos_embed_{i}"], stream)
    for block in sorted_children(parts["blocks"]):
        inner = block.children
        for name, lists in inner["blocks"].children.items():
            for member in sorted_children(lists):
                stream = streams[int(name)]
                for norm, layers in (("norm1", "attn"), ("norm2", "mlp")):
                    _residual(run, member.children[norm], member.children[layers], stream)
        for i in range(len(streams)):
            other = streams[(i + 1) % len(streams)]
            run.add(other, _projected(run, inner["projs"].children[str(i)], streams[i]))
            for fusion in _members(inner["fusion"].children[str(i)]):
                _residual(run, fusion.children["norm1"], fusion.children["attn"], other)
            run.add(streams[i], _projected(run, inner["revert_projs"].children[str(i)], other))
    found = []
    for i, stream in enumerate(streams):
        run.norm(parts["norm"].children[str(i)], stream, statistics=False)
        found.append(run.layer(parts["head"].children[str(i)], stream))
    return run.add(*found)


def _members(node: Node) -> list[Node]:
    return [node] if "attn" in node.children else sorted_children(node)


def _projected(run: Course, node: Node, value: Value) -> Value:
    """A norm over all units and a dense layer."""
    norm, layer = sorted_children(node)
    run.norm(norm, value, statistics=False)
    return run.layer(layer, value)


def _last(node: Node) -> Node:
    layers = [leaf for leaf in node.leaves() if leaf.kind == "conv"]
    if not layers:
        raise Misfit
    return layers[-1]


BLOCKS = (
    kind("global_block blocks", "downsample.conv_block.conv_dw global_block.blocks.conv1.conv_dw", _global_queries),
)
KINDS = (
    kind("pixel_embed pixel_pos patch_pos blocks", "pixel_embed.proj", _pixels_in_patches),
    kind("patch_embed cls_token_0 pos_embed_1 blocks head", "patch_embed.0.proj.0 patch_embed.0.proj", _crossed),
)
