"""Blocks of convolutions that cut the channels of a map into parts and join them again, each in a known order."""

from itertools import accumulate, pairwise

from wsrl.wiring.course import Course, Misfit, join, kind
from wsrl.wiring.dims import Value, size_of
from wsrl.wiring.order import numbered
from wsrl.wiring.tree import Node, sorted_children


def _cross_stage(run: Course, node: Node, value: Value) -> Value:
    """Half of the channels pass by a list of blocks (Wang et al., CSPNet, 2020)."""
    parts = node.children
    if "conv_down" in parts:
        value = run.stack(parts["conv_down"], value)
    half, odd = divmod(_units(parts["conv_exp"]), 2)
    if odd:
        raise Misfit
    first, second = run.cut(run.stack(parts["conv_exp"], value, (half, half)), (half, half))
    if "conv_transition_b" in parts:
        through, by = second, first
    else:
        through, by = first, second
    for block in sorted_children(parts["blocks"]):
        through = run.add(through, _bottleneck(run, block, through))
    if "conv_transition_b" in parts:
        through = run.stack(parts["conv_transition_b"], through)
        return run.stack(parts["conv_transition"], join((by, through)))
    return run.stack(parts["conv_transition"], join((through, by)))


def _bottleneck(run: Course, node: Node, value: Value) -> Value:
    """Convolutions by their numbers; a gate has the number of the one that it follows, or follows the first."""
    for name in sorted(node.children):
        if not name.startswith("conv"):
            continue
        value = run.stack(node.children[name], value)
        for gate in (f"attn{name[4:]}", "attn" if name == "conv1" else ""):
            if gate in node.children:
                value = run.gate(node.children[gate], value)
    return value


def _cross_layer(run: Course, node: Node, value: Value) -> Value:
    """Two convolutions of the same input, of which one goes through a list of blocks (Lyu et al., RTMDet, 2022)."""
    parts = node.children
    short, main = run.stack(parts["short_conv"], value), run.stack(parts["main_conv"], value)
    for block in sorted_children(parts["blocks"]):
        found, depth = run.stack(block.children["conv1"], main), block.children["conv2"].children
        found = run.stack(depth["pointwise_conv"], run.stack(depth["depthwise_conv"], found))
        main = run.add(main, found)
    value = join((main, short))
    if "attention" in parts:
        value = run.gate(parts["attention"], value)
    return run.stack(parts["final_conv"], value)


def _pooled(run: Course, node: Node, value: Value) -> Value:
    """A map beside what windows of several sizes pool of it (He et al., spatial pyramid pooling, 2014)."""
    narrow = run.stack(node.children["conv1"], value)
    last = node.children["conv2"]
    times, rest = divmod(next(leaf for leaf in last.leaves() if leaf.kind == "conv").fan_in, size_of(narrow))
    if rest or times < 2:
        raise Misfit
    return run.stack(last, narrow * times)


def _widened(run: Course, node: Node, value: Value) -> Value:
    """A convolution that makes several maps of each, beside a dense layer for a token (Heo et al., PiT, 2021)."""
    conv = node.children["conv"]
    if conv.fan_in != 1:
        raise Misfit
    return run.add(run.layer(conv, value), run.layer(node.children["fc"], value))


def _large_kernel(run: Course, node: Node, value: Value) -> Value:
    """The sum of convolutions of each channel by a large and a small kernel (Ding et al., RepLKNet, 2022)."""
    names = [name for name in ("large_conv", "small_conv") if name in node.children]
    value = run.add(*(run.stack(node.children[name], value) for name in names))
    return run.gate(node.children["se"], value) if "se" in node.children else value


def _summed(run: Course, node: Node, value: Value) -> Value:
    """The sum of a norm and of convolutions that become one after training (Vasu et al., MobileOne, 2023)."""
    parts = node.children
    found = [run.norm(parts["identity"], value)] if "identity" in parts else []
    found += [run.stack(parts["conv_scale"], value)] if "conv_scale" in parts else []
    found += [run.stack(branch, value) for branch in sorted_children(parts["conv_kxk"])]
    value = run.add(*found)
    return run.gate(parts["se"], value) if "se" in parts else value


def _inverted(run: Course, node: Node, value: Value) -> Value:
    """Convolutions that widen and narrow again, of which the first may be in groups (Nottebaum et al., CPUBone)."""
    for name in ("spatial_conv", "inverted_conv", "depth_conv", "point_conv"):
        if name in node.children:
            layers = [leaf for leaf in node.children[name].leaves() if leaf.kind == "conv"]
            value = run.layer(layers[0], value)
            for norm in (leaf for leaf in node.children[name].leaves() if leaf.kind == "norm"):
                run.norm(norm, value)
    return value


def _dense_head(run: Course, node: Node, value: Value) -> Value:
    """A convolution, and dense layers of the means over the places of what it returns."""
    parts = node.children
    value = run.layer(parts["pre_classifier"].children["linear"], run.stack(parts["in_conv"], value))
    run.norm(parts["pre_classifier"].children["norm"], value, statistics=False)
    return run.layer(parts["classifier"].children["linear"], value)


def _dense(run: Course, node: Node, value: Value) -> Value:
    """Blocks that read all maps before them (Kim et al., RDNet, 2024)."""
    for block in sorted_children(node):
        layers = block.children["layers"].children["layers"].children
        found = run.norm(layers["1"], run.layer(layers["0"], value), statistics=False)
        found = run.layer(layers["4"], run.layer(layers["2"], found))
        if "5" in layers:
            found = run.gate(layers["5"], found)
        for gain in (child for child in block.children.values() if child.kind == "parameter"):
            run.scale(gain, found)
        value = join((value, found))
    return value


def _mixed_kernels(run: Course, node: Node, value: Value) -> Value:
    """Parts of the channels meet kernels of several sizes (Tan and Le, MixConv, 2019)."""
    names = [name for name in ("conv_pw", "conv_dw", "conv_pwl") if name in node.children]
    layers = [node.children[name] for name in names]
    if not any(map(numbered, layers)):
        raise Misfit
    if "conv_pwl" not in node.children:
        layers.reverse()  # what lies in depth comes first
    given, depth = value, node.children["conv_dw"]
    for i, layer in enumerate(layers):
        seams = {0}
        if layer is not depth:
            for other in (layer, *layers[i + 1 : i + 3]):  # what it returns is cut by the layers that read it
                seams |= set(accumulate(_lengths(other, other is not layer)))
        value = _convolve(run, layer, value, seams)
        value = run.norm(node.children[f"bn{i + 1}"], value)
        if layer is depth and "se" in node.children:
            value = run.gate(node.children["se"], value)
    return run.add(value, given) if size_of(value) == size_of(given) else value


def _convolve(run: Course, node: Node, value: Value, seams: set[int]) -> Value:
    """One convolution, or several of parts of the channels; seams are those in what they return."""
    members = sorted_children(node) if numbered(node) else [node]
    found, start = [], 0
    for member, part in zip(members, run.cut(value, _lengths(node, True)), strict=True):
        end = start + member.units
        inner = [n - start for n in sorted(seams) if start < n < end]
        found.append(run.layer(member, part, [b - a for a, b in pairwise((0, *inner, end - start))]))
        start = end
    return join(found)


def _lengths(node: Node, read: bool) -> list[int]:
    """Channels that the members of a mixed convolution read, or else return."""
    members = sorted_children(node) if numbered(node) else [node]
    if any(member.kind != "conv" for member in members):
        raise Misfit
    return [member.fan_in if read and member.fan_in > 1 else member.units for member in members]


def _ghost(run: Course, node: Node, value: Value) -> Value:
    """Cheap convolutions of each channel stand beside them (Han et al., GhostNet, 2020), or are added to them (Chen et
    al., RepGhost, 2022)."""
    parts, root = node.children, node
    while root.parent is not None:
        root = root.parent
    if any("short_conv" in leaf.path for leaf in root.leaves()):  # GhostNetV2, whose gates are left alone
        raise Misfit
    plain = run.stack(parts["primary_conv"], value)
    cheap = run.stack(parts["cheap_operation"], plain)
    if "fusion_bn" in parts:
        for norm in sorted_children(parts["fusion_bn"]):
            cheap = run.add(cheap, run.norm(norm, plain))
        return cheap
    return join((plain, cheap))


def _ghost_bottleneck(run: Course, node: Node, value: Value) -> Value:
    parts, given = node.children, value
    value = _ghost(run, parts["ghost1"], value)
    if "conv_dw" in parts:
        value = run.norm(parts["bn_dw"], run.layer(parts["conv_dw"], value))
    if "se" in parts:
        value = run.gate(parts["se"], value)
    value = _ghost(run, parts["ghost2"], value)
    if "shortcut" in parts:
        given = run.stack(parts["shortcut"], given)
    return run.add(value, given)


def _scales(run: Course, node: Node, value: Value) -> Value:
    """Parts of the channels are convolved one after the other, each with what the one before returns (Gao et al.,
    Res2Net, 2019)."""
    parts, given = node.children, value
    convs, norms = sorted_children(parts["convs"]), sorted_children(parts["bns"])
    width = convs[0].units
    count, rest = divmod(parts["conv1"].units, width)
    if rest or len(convs) != max(1, count - 1) or len(norms) != len(convs):
        raise Misfit
    pieces = run.cut(run.norm(parts["bn1"], run.layer(parts["conv1"], value, (width,) * count)), (width,) * count)
    found: list[Value] = []
    for conv, norm, piece in zip(convs, norms, pieces, strict=False):
        if found and "downsample" not in parts:
            piece = run.add(piece, found[-1])
        found.append(run.norm(norm, run.layer(conv, piece)))
    found += pieces[len(convs) :]
    value = run.norm(parts["bn3"], run.layer(parts["conv3"], join(found)))
    if "se" in parts:
        value = run.gate(parts["se"], value)
    if "downsample" in parts:
        given = run.stack(parts["downsample"], given)
    return run.add(value, given)


def _units(node: Node) -> int:
    """Channels that the last layer of a module returns."""
    layers = [leaf for leaf in node.leaves() if leaf.kind in ("conv", "linear")]
    if not layers:
        raise Misfit
    return layers[-1].units


KINDS = (
    kind("conv_exp blocks conv_transition", "conv_down conv_down.conv conv_down.1.conv conv_exp.conv", _cross_stage),
    kind("short_conv main_conv blocks final_conv", "main_conv.conv", _cross_layer),
    kind("conv_dw conv_pw bn2", "conv_dw", _mixed_kernels),
    kind("conv_dw conv_pwl bn1", "conv_pw", _mixed_kernels),
    kind("primary_conv cheap_operation", "primary_conv.0", _ghost),
    kind("ghost1 ghost2", "ghost1.primary_conv.0", _ghost_bottleneck),
    kind("conv fc", "fc", _widened),
    kind("large_conv", "large_conv.conv", _large_kernel),
    kind("spatial_conv point_conv", "spatial_conv.conv spatial_conv.conv.1", _inverted),
    kind("inverted_conv depth_conv point_conv", "inverted_conv.conv inverted_conv.conv.1", _inverted),
    kind("in_conv pre_classifier classifier", "in_conv.conv", _dense_head),
    kind("conv_kxk", "conv_kxk.0.conv", _summed),
    kind("dense_block0", "dense_block0.layers.layers.0", _dense),
    kind("conv1 convs bns conv3", "conv1", _scales),
)
