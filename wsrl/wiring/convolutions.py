"""What convolutions read and return: grouped, depthwise, transposed, along the channels."""

import re

from wsrl.wiring.dims import Dim, Value, fix, tie, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.order import SECOND, SHORTCUT, block_of
from wsrl.wiring.reading import read_joined_maps, read_value
from wsrl.wiring.tree import Node, Shape
from wsrl.wiring.values import Env
from wsrl.wiring.wiring import Fact

SQUEEZE = re.compile(r"(^|[._])(se\d*|se_module|squeeze\w*|attn|attention|ca)[._]", re.I)
DEPTHWISE = re.compile(r"conv_?dw|dw_?conv|depthwise(_conv)?", re.I)
BY_CHANNEL = re.compile(r"depthwise|(^|_)dw", re.I)
TRANSPOSE = re.compile(r"transp|deconv|^up|upsam|conv_t|tconv|convt", re.I)


def run_conv(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    """Runs a convolution; see `Flow.run`."""
    name, shape = node.tensors["weight"]
    last_axis = len(shape) - 1
    axis_in, axis_out = (last_axis - 1, last_axis) if node.transposed else (1, 0)
    bias = node.shape("bias") or None
    if not node.transposed:
        swapped = bias is not None and bias[0] == shape[1] != shape[0]
        named = (bias is None or bias[0] == shape[1]) and bool(TRANSPOSE.search(node.dotted))
        named = named and _normed_after(node) != shape[0]
        if swapped or (named and (TRANSPOSE.search(node.name) or _reads_first_axis(env, shape))):
            axis_in, axis_out = 0, 1
            flow.transposes = True
    fan_in, units = shape[axis_in], shape[axis_out]
    taps = shape[:-2] if node.transposed else shape[2:]
    step = flow.note(
        node, "conv" if node.transposed or axis_out == 0 else "transposed conv", facts={"kernel": Fact(taps, "shapes")}
    )
    if fan_in == 1 and max(shape) == max(taps) and units == 1:
        return _across_channels(flow, node, env)
    if fan_in == 1 and env.visible(units) and units > 1:  # depthwise
        entry = flow.pick(env, units, node, newest)
        assert entry is not None
        given = env.parent.last() if env.parent is not None else None
        if given is not None and _multiplies(node, given.size):
            fix(given.value)
            fix(entry.value)
        flow.passes(name, axis_out, entry.value)
        flow.writes_vectors(node, entry.value)
        entry.spatial = True
        if entry in env.entries:
            entry.read = False
        step.passes = True
        step.facts["groups"] = Fact(units, "shapes")
        return True
    if DEPTHWISE.fullmatch(node.name) and 1 < fan_in < units and units % fan_in == 0 and not env.is_unknown():
        entry = flow.pick(env, units, node, newest)  # in groups of several channels
        if entry is not None:
            fix(entry.value)
            flow.passes(name, axis_out, entry.value)
        return entry is not None
    if fan_in == 1 and not env.is_unknown() and not any(e.value[0].role == "input" for e in env.visible(1)):
        flow.wanted.append((1, node))
        return False
    if _is_bilinear(node) or _is_no_map(node, env):
        flow.wanted.append((fan_in, node))
        return False
    follows = (bool(env.entries) and (flow.ordered or newest)) or bool(SECOND.search(node.dotted))
    may_unflatten = follows and all(e.read for e in env.visible(fan_in)) and not env.is_unknown()
    unflattened = _unflattened(flow, env, fan_in) if may_unflatten else None
    widened = env.last()
    skips = widened is not None and widened.widened and not widened.read and fan_in > widened.size
    joined = read_joined_maps(flow, env, node, fan_in, beyond=True) if skips and not env.is_unknown() else None
    if joined is not None:
        value: Value | None = joined
    elif unflattened is not None:
        value = unflattened
    elif env.visible(fan_in) or env.is_unknown():
        entry = flow.pick(env, fan_in, node, newest)
        assert entry is not None
        value = entry.value
    else:
        last = env.last()
        value = _grouped(flow, node, env, fan_in, units, newest) if flow.parts else None
        if value is not None and last is not None:
            out, value = value, None
            step.taken = last.value
            step.facts["groups"] = Fact(last.size // fan_in, "shapes")
            flow.writes(name, axis_out, out)
            flow.writes_vectors(node, out)
            env.add(out, spatial=True)
            return True
        value = read_value(flow, node, env, fan_in, newest)
    if value is None:
        return False
    flow.reads(name, axis_in, value)
    may_be_grouped = env.is_unknown() and (fan_in == 1 or any(n > 1 for n in node.weight[2:]))
    may_be_grouped |= fan_in == 1 and bool(BY_CHANNEL.search(node.name))  # of an input of several channels
    out = (Dim(units, fixed=may_be_grouped),)
    flow.writes(name, axis_out, out)
    flow.writes_vectors(node, out)
    if flow.transposes and fan_in == units and max(shape[2:], default=1) > 1 and not node.transposed:
        tie_values(value, out)  # which axis is which cannot be told
    env.add(out, spatial=True, widened=step.type == "transposed conv")
    return True


def is_named_transposed(node: Node) -> bool:
    """Whether its name says that a convolution is transposed."""
    return bool(TRANSPOSE.search(node.name))


def _normed_after(node: Node) -> int:
    """Units of the norm that comes next in a list and tells its axes apart, else 0."""
    after = node.parent.children.get(str(int(node.name) + 1)) if node.parent and node.name.isdigit() else None
    if after is None or after.kind != "norm" or after.shape("weight") is None:
        return 0
    return after.weight[0] if node.weight[0] != node.weight[1] else 0


def _reads_first_axis(env: Env, shape: Shape) -> bool:
    """Whether only the first axis of a weight is as long as something in reach, and it does not read two such maps."""
    if shape[1] == 2 * shape[0] and max(shape[2:]) % 2:
        return False
    return shape[1] > 1 and not env.visible(shape[1]) and bool(env.visible(shape[0]))


def _is_bilinear(node: Node) -> bool:
    """Whether a weight with as many taps as channels multiplies pairs of units instead (`nn.Bilinear`)."""
    return len(node.weight) == 3 and node.weight[1] == node.weight[2] > 7 and not node.transposed


def _is_no_map(node: Node, env: Env) -> bool:
    """Whether what is as long as a convolution over an image reads is a vector, which dense layers alone have made: it
    reads maps that are as many by coincidence, such as two that are joined beside codes of a time step."""
    if len(node.weight) != 4 or min(node.weight[2:]) < 2 or node.transposed or env.is_unknown():
        return False
    found = env.visible(node.fan_in)
    roots = {dim.find()[0] for entry in found for dim in entry.value}
    maps = {dim.find()[0] for entry in env.made if entry.spatial for dim in entry.value}
    return bool(found) and all(entry.dense for entry in found) and not roots & maps


def _multiplies(node: Node, given: int) -> bool:
    """Whether a depthwise convolution may return several maps for each that its block is given: none widens them before
    it, only one beside it."""
    units = node.weight[0]
    beside = node.parent.children.values() if node.parent else ()
    convs = [
        (c, leaf)
        for c in beside
        if c is not node and (c.kind == "conv" or SHORTCUT.search(c.name))
        for leaf in c.leaves()
    ]
    wide = [c for c, leaf in convs if leaf.kind == "conv" and leaf.units == units]
    return 1 < given < units and units % given == 0 and bool(wide) and all(SHORTCUT.search(c.name) for c in wide)


def _across_channels(flow: Flow, node: Node, env: Env) -> bool:
    """A convolution from one channel to one: along the channels (ECA) it fixes their order, over a map it does not."""
    last = env.last()
    if last is None and not env.is_unknown():
        return False
    if len(node.weight) == 3:  # where in its block it stands is not known
        flow.in_order.append(env if env.entries else env.parent or env)
        fix(last.value if last is not None else ())
    return True


def _grouped(flow: Flow, node: Node, env: Env, fan_in: int, units: int, newest: bool) -> Value | None:
    """Ties the newest value and the result of a grouped convolution by their groups; returns the result."""
    last = env.last()
    if last is None or not last.spatial or node.transposed or env.is_unknown() or len(last.value) != 1 or fan_in == 3:
        return None
    width = last.size
    groups = width // fan_in
    if width % fan_in or groups < 2 or units % groups or fan_in == 1:
        return None
    pointwise = all(n == 1 for n in node.weight[2:])
    if units != width and not pointwise:
        return None
    known = newest or (flow.ordered and not env.entries)
    if fan_in in _made_beside(node if known and not pointwise else flow.root, pointwise):
        return None  # it waits for another layer
    flow.read(env, [last])
    if pointwise and _beside_others_in_groups(node):  # channels may be shuffled between the groups of both
        fix(last.value)
        return (Dim(units, fixed=True),)
    if fan_in >= 8 and units // groups >= 8:  # wide groups: entries within each are permuted alike
        within = Dim(fan_in)
        tie(last.value[0], view(within, outer=groups))
        flow.put(*weight_axis(node), (within,))
        return (view(Dim(units // groups), outer=groups),)
    blocks = Dim(groups)
    tie(last.value[0], view(blocks, inner=fan_in))
    return (view(blocks, inner=units // groups),)


def _beside_others_in_groups(node: Node) -> bool:
    """Whether other convolutions of the block are grouped, as far as shapes tell (Zhang et al., ShuffleNet, 2018)."""
    block = block_of(node)
    layers = [leaf for leaf in block.leaves() if leaf.kind == "conv"] if block is not None else []
    made = {leaf.units for leaf in layers}
    return any(leaf.weight[1] == 1 or leaf.weight[1] not in made for leaf in layers if leaf is not node)


def weight_axis(node: Node) -> tuple[str, int]:
    """The tensor and the axis along which a convolution reads."""
    name, shape = node.tensors["weight"]
    return name, len(shape) - 2 if node.transposed else 1


def _made_beside(node: Node, squeezed: bool) -> set[int]:
    """Sizes that other layers of the same block return, those of squeeze-and-excitation only if asked for."""
    scope = block_of(node)
    if scope is None:
        return set()
    layers = (leaf for leaf in scope.leaves() if leaf.kind in ("linear", "conv") and leaf is not node)
    return {leaf.units for leaf in layers if squeezed or not SQUEEZE.search(leaf.dotted)}


def _unflattened(flow: Flow, env: Env, channels: int) -> Value | None:
    """A dense layer's units, read as maps of channels."""
    last = env.last()
    if last is None or last.read or not last.dense or len(last.value) != 1 or last.size % channels or channels <= 4:
        return None
    taps = last.size // channels
    if taps < 4 or round(taps**0.5) ** 2 != taps:
        return None
    flow.read(env, [last])
    dim = Dim(channels)
    tie(last.value[0], view(dim, inner=taps))
    return (dim,)
