"""What single modules read and return: dense layers, convolutions, norms, embeddings, bare parameters, recurrent cells."""

import re
from itertools import pairwise
from math import gcd

from wsrl.wiring.dims import Dim, Value, fix, mark, size_of, tie, tie_values, view
from wsrl.wiring.flow import SECOND, SHORTCUT, Entry, Env, Flow
from wsrl.wiring.tree import Node

TOKENS = re.compile(r"pos|token|embed|latent|quer|probe|prompt|cls|mask|time|register", re.I)
MOMENTS = re.compile(r"((fc|to|linear|z|layer|hidden2|h2)_?)?(mu|mean|var|logvar|log_var|log_?std|log_?sigma|sigma)(_layer|_head)?", re.I)
POSITIONS = re.compile(r"pos|wpe", re.I)
NARROWING = re.compile(
    r"(fc|w|lin|linear|dense|conv|pwconv|layer|proj|l|mlp|ff)_?2|w3|down|down_?proj|w_?o|w_out|c_proj|proj|"
    r"(out|output)(_proj|_dense)?|proj(ect)?_out|fc_out|dense_4h_to_h|\d|pointwise_conv2|linear_out|conv_?dw|dwconv|norm",
    re.I,
)
MERGED = re.compile(r"reduction|down_?sample|merg|readout|head|classif|\bfc\b|norm|score|proj", re.I)
SKIPPED = re.compile(r"(^|[._])up|dec|cat|fus|skip|merge|outc", re.I)
SQUEEZE = re.compile(r"(^|[._])(se\d*|se_module|squeeze\w*|attn|attention|ca)[._]", re.I)
TRANSPOSE = re.compile(r"transp|deconv|^up|upsam|conv_t|tconv|convt", re.I)


def run_module(flow: Flow, node: Node, env: Env, newest: bool = False) -> bool:
    """Runs a module that has tensors; see `Flow.run`."""
    return RUN[node.kind](flow, node, env, newest)


def run_transform(flow: Flow, node: Node, env: Env) -> bool | None:
    """A fixed transform along the units (FNet) keeps them in order; None for any other module."""
    if node.kind != "container" or not re.search(r"fourier|fft|dct|wavelet|haar", node.name, re.I):
        return None
    sizes = {n for leaf in node.leaves() for _, shape in leaf.tensors.values() for n in shape}
    found = [e for n in sizes for e in env.visible(n)]
    if not found and not env.is_unknown():
        return False
    for entry in found:
        fix(entry.value)
    return True


def _linear(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    name, shape = node.tensors["weight"]
    axis_in, axis_out = (0, 1) if node.transposed else (1, 0)
    value = read_value(flow, node, env, shape[axis_in], newest)
    if value is None:
        return False
    flow.put(name, axis_in, value)
    out = (Dim(shape[axis_out]),)
    flow.put(name, axis_out, out)
    flow.put_vectors(node, out)
    if MOMENTS.fullmatch(node.name):
        mark(out, "output")
    flow.note(node, "linear")
    env.add(out, dense=True)
    return True


def read_value(flow: Flow, node: Node, env: Env, size: int, newest: bool = False) -> Value | None:
    """Returns the value that a dense layer or convolution reads: a whole one, half of a gated one, a flattened or joined one."""
    heads = [e for e in env.reachable() if e.heads and not e.read]
    if len(heads) > 1 and sum(size_of(e.value) for e in heads) == size:  # heads of attention in modules of their own
        for entry in heads:
            flow.read(env, [entry])
        return tuple(dim for e in heads for dim in e.value)
    own = [e for e in env.entries if not e.read]
    if len(own) > 1 and size not in {size_of(e.value) for e in env.entries} and not env.only_last:
        joined = _joined(flow, env, size)
        if joined is not None:
            return joined
    if env.visible(size) or env.is_unknown():
        entry = flow.pick(env, size, node, newest)
        return entry.value if entry else None
    last = env.last()
    if flow.parts and last is not None and not env.is_unknown():
        width = size_of(last.value)
        own = last in env.entries
        if width == 2 * size and own and NARROWING.fullmatch(node.name) and len(last.value) == 1:
            mixed = _mixed_parts(node, size)
            half = Dim(size, fixed=bool(mixed))
            for part in mixed:
                fix([dim for entry in env.everywhere(part) for dim in entry.value])
            flow.read(env, [last])
            tie(last.value[0], view(half, outer=2))
            return (half,)
        if node.kind == "linear" and last.spatial and size % width == 0 and size > width > 1:
            flow.read(env, [last])
            taps = size // width
            if len(last.value) == 1:
                flat = (view(last.value[0], outer=taps) if node.transposed else view(last.value[0], inner=taps),)
                env.add(flat, dense=True).read = True  # other layers may read it as well
                return flat
        joined = _joined(flow, env, size) or _repeated(flow, node, env, last, size)
        if joined is None and SKIPPED.search(node.dotted):
            joined = _skipped(flow, env, size)
        if joined is not None:
            return joined
    entry = flow.pick(env, size, node, newest)
    return entry.value if entry else None


def _mixed_parts(node: Node, size: int) -> list[int]:
    """Sizes of depthwise convolutions beside a gated layer that treat only some of its units (MambaOut)."""
    beside = node.parent.children.values() if node.parent else ()
    depthwise = [c.weight[0] for c in beside if c.kind == "conv" and c.weight[1] == 1 and not c.transposed]
    return [n for n in depthwise if n not in (size, 2 * size)]


def _repeated(flow: Flow, node: Node, env: Env, last: Entry, size: int) -> Value | None:
    """Several views of the newest value side by side: four pixels that are merged, or the first token and the mean."""
    times = size // size_of(last.value)
    if size % size_of(last.value) or times not in (2, 3, 4) or not MERGED.search(node.dotted) or last.spatial:
        return None
    flow.read(env, [last])
    return last.value * times


def _skipped(flow: Flow, env: Env, size: int) -> Value | None:
    """The newest value and one from further back; in which order is not known, so both are fixed unless they are alike."""
    last = env.last()
    if last is None or last.read or not last.spatial:
        return None
    rest = size - size_of(last.value)
    found = [e for e in env.everywhere(rest) if e is not last and e.spatial] if rest > 0 else []
    if not found:
        return None
    flow.read(env, found)
    flow.read(env, [last])
    if rest == size_of(last.value):
        tie_values(last.value, found[-1].value)
        return last.value * 2
    fix(last.value)
    fix(found[-1].value)
    return (Dim(size, fixed=True),)


def _joined(flow: Flow, env: Env, size: int) -> Value | None:
    """The unread values one after the other, if they add up; where their order matters they are fixed."""
    unread = [e for e in env.entries if not e.read]
    scope = env.parent
    while len(unread) < 2 and scope is not None and not env.entries:
        unread, scope = [e for e in scope.entries if not e.read], scope.parent
    if len(unread) < 2 or sum(size_of(e.value) for e in unread) != size:
        return None
    if len({size_of(e.value) for e in unread}) == 1 and not any(e.looked_up for e in unread):
        flow.read(env, unread)  # they are tied, for their order is not known
        return tuple(dim for e in unread for dim in e.value)
    for entry in unread:
        flow.read(env, [entry])
        fix(entry.value)
    return (Dim(size, fixed=True),)


def _conv(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    name, shape = node.tensors["weight"]
    last_axis = len(shape) - 1
    axis_in, axis_out = (last_axis - 1, last_axis) if node.transposed else (1, 0)
    bias = node.shape("bias")
    if not node.transposed:
        swapped = bias is not None and bias[0] == shape[1] != shape[0]
        unreadable = not env.visible(shape[1]) and bool(env.visible(shape[0])) and shape[1] > 1
        if swapped or (TRANSPOSE.search(node.name) and (bias is None or bias[0] == shape[1])) or (
            unreadable and TRANSPOSE.search(node.dotted) and (bias is None or bias[0] == shape[1])
        ):
            axis_in, axis_out = 0, 1
            flow.transposes = True
    fan_in, units = shape[axis_in], shape[axis_out]
    flow.note(node, "conv")
    if fan_in == 1 and max(shape) == max(shape[2:] if not node.transposed else shape[:-2]) and units == 1:
        return _across_channels(flow, node, env)
    if fan_in == 1 and env.visible(units) and units > 1:  # depthwise
        entry = flow.pick(env, units, node, newest)
        assert entry is not None
        given = env.parent.last() if env.parent is not None else None
        if given is not None and _multiplies(node, size_of(given.value)):
            fix(given.value)
            fix(entry.value)
        flow.put(name, axis_out, entry.value)
        flow.put_vectors(node, entry.value)
        entry.spatial = True
        if entry in env.entries:
            entry.read = False
        return True
    if fan_in == 1 and not env.is_unknown() and not any(e.value[0].role == "input" for e in env.visible(1)):
        flow.wanted.append((1, node))
        return False
    unread = any(not e.read for e in env.visible(fan_in))
    follows = bool(env.entries) and (flow.ordered or newest) or bool(SECOND.search(node.dotted))
    unflattened = _unflattened(flow, env, fan_in) if follows and not unread and not env.is_unknown() else None
    if unflattened is not None:
        value: Value | None = unflattened
    elif env.visible(fan_in) or env.is_unknown():
        entry = flow.pick(env, fan_in, node, newest)
        assert entry is not None
        value = entry.value
    else:
        value = _grouped(flow, node, env, fan_in, units, newest) if flow.parts else None
        if value is not None:
            out, value = value, None
            flow.put(name, axis_out, out)
            flow.put_vectors(node, out)
            env.add(out, spatial=True)
            return True
        value = read_value(flow, node, env, fan_in, newest)
    if value is None:
        return False
    flow.put(name, axis_in, value)
    may_be_grouped = env.is_unknown() and (fan_in == 1 or any(n > 1 for n in node.weight[2:]))
    out = (Dim(units, fixed=may_be_grouped),)
    flow.put(name, axis_out, out)
    flow.put_vectors(node, out)
    if flow.transposes and fan_in == units and max(shape[2:], default=1) > 1 and not node.transposed:
        tie_values(value, out)  # which axis is which cannot be told
    env.add(out, spatial=True)
    return True


def _multiplies(node: Node, given: int) -> bool:
    """Whether a depthwise convolution may return several maps for each that its block is given: no layer widens them before
    it, only one beside it."""
    units = node.weight[0]
    beside = node.parent.children.values() if node.parent else ()
    convs = [(c, leaf) for c in beside if c is not node and (c.kind == "conv" or SHORTCUT.search(c.name)) for leaf in c.leaves()]
    wide = [c for c, leaf in convs if leaf.kind == "conv" and leaf.units == units]
    return 1 < given < units and units % given == 0 and bool(wide) and all(SHORTCUT.search(c.name) for c in wide)


def _across_channels(flow: Flow, node: Node, env: Env) -> bool:
    """A convolution from one channel to one: along the channels (ECA) it fixes their order, over a map it does not."""
    last = env.last()
    if last is None and not env.is_unknown():
        return False
    if len(node.weight) == 3 and last is not None:
        fix(last.value)
    return True


def _grouped(flow: Flow, node: Node, env: Env, fan_in: int, units: int, newest: bool) -> Value | None:
    """Ties the newest value and the result of a grouped convolution by their groups; returns the result."""
    last = env.last()
    if last is None or not last.spatial or node.transposed or env.is_unknown() or len(last.value) != 1 or fan_in == 3:
        return None
    width = size_of(last.value)
    groups = width // fan_in
    if width % fan_in or groups < 2 or units % groups or fan_in == 1:
        return None
    pointwise = all(n == 1 for n in node.weight[2:])
    if units != width and not pointwise:
        return None
    known = newest or (flow.ordered and not env.entries)
    if fan_in > 1 and fan_in in _made_beside(node if known and not pointwise else flow.root, pointwise):
        return None  # it waits for another layer
    flow.read(env, [last])
    if fan_in >= 8 and units // groups >= 8:  # wide groups: entries within each are permuted alike
        within = Dim(fan_in)
        tie(last.value[0], view(within, outer=groups))
        flow.put(*weight_axis(node), (within,))
        return (view(Dim(units // groups), outer=groups),)
    blocks = Dim(groups)
    tie(last.value[0], view(blocks, inner=fan_in))
    return (view(blocks, inner=units // groups),)


def weight_axis(node: Node) -> tuple[str, int]:
    """The tensor and the axis along which a convolution reads."""
    name, shape = node.tensors["weight"]
    return name, len(shape) - 2 if node.transposed else 1


def _made_beside(node: Node, squeezed: bool) -> set[int]:
    """Sizes that other layers of the same block return, those of squeeze-and-excitation only if asked for."""
    scope = node.parent or node
    while scope is not None and scope.parent is not None and sum(1 for _ in scope.leaves()) <= 3:
        scope = scope.parent
    if scope is None:
        return set()
    layers = (leaf for leaf in scope.leaves() if leaf.kind in ("linear", "conv") and leaf is not node)
    return {leaf.units for leaf in layers if squeezed or not SQUEEZE.search(leaf.dotted)}


def _unflattened(flow: Flow, env: Env, channels: int) -> Value | None:
    """A dense layer's units, read as maps of channels."""
    last = env.last()
    if last is None or last.read or not last.dense or len(last.value) != 1 or size_of(last.value) % channels or channels <= 4:
        return None
    taps = size_of(last.value) // channels
    if taps < 4 or round(taps**0.5) ** 2 != taps:
        return None
    flow.read(env, [last])
    dim = Dim(channels)
    tie(last.value[0], view(dim, inner=taps))
    return (dim,)


def _norm(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    size = max(max(shape, default=1) for _, shape in node.tensors.values())
    flow.note(node, "batch norm" if "mean" in node.tensors else "norm")
    if size == 1:
        return True
    read = {id(e): e.read for e in env.made}
    entry = flow.pick(env, size, node, newest) if env.visible(size) or env.is_unknown() else None
    if entry is None:
        last = env.last()
        merged = last is not None and size == 4 * size_of(last.value) and not last.spatial
        value = _repeated(flow, node, env, last, size) if last is not None and merged else None
        value = value or _joined(flow, env, size)
        for own in env.made:
            own.read = read.get(id(own), own.read)
        if value is None:
            return False
        flow.put_vectors(node, value, skip=())
        return True
    for own in env.made:  # a norm hands on what it reads
        own.read = read.get(id(own), own.read)
    if entry in env.entries and entry.dense and env.parent is not None and not env.only_last and "mean" not in node.tensors:
        for outside in env.parent.visible(size):  # the norm may follow a sum
            tie_values(entry.value, outside.value)
    _loosen_group_norm(node, entry)
    flow.put_vectors(node, entry.value, skip=())
    return True


def _loosen_group_norm(node: Node, entry: Entry) -> None:
    """Norms beside convolutions that keep no statistics may be group norms of up to 32 groups, or of groups of 8 and more."""
    named = re.search(r"group_?norm|^gn\d*$", node.name, re.I)
    siblings = node.parent.children.values() if node.parent else ()
    beside = any(c.kind == "conv" and not c.name.startswith("proj") for c in siblings)
    if "mean" in node.tensors or not (named or (beside and entry.spatial and re.fullmatch(r"norm\d*|bn\d*", node.name))):
        return
    for dim in entry.value:
        within = gcd(dim.size // 32, 8)
        if dim.size % 32 or within < 2:
            fix((dim,))
        else:
            tie(dim, view(Dim(within), outer=dim.size // within))


def _embedding(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    name, shape = node.tensors["weight"]
    flow.put(name, 0, (Dim(shape[0], role="input"),))
    out = (Dim(shape[1]),)
    flow.put(name, 1, out)
    flow.note(node, "embedding")
    if not POSITIONS.search(node.name):
        flow.embedded.append(out)
    env.add(out, looked_up=True)
    return True


def _parameter(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    flow.note(node, "parameter")
    for tensor, shape in node.tensors.values():
        long = [i for i, n in enumerate(shape) if n > 1]
        if len(long) == 1:
            _attach(flow, env, tensor, long[0])
        elif TOKENS.search(node.name) and len(long) >= 2:
            axis = 1 if len(shape) == 4 and env.visible(shape[1]) and not env.visible(shape[3]) else len(shape) - 1
            _attach(flow, env, tensor, axis)
        else:
            for i in long:
                for entry in env.visible(shape[i]):
                    fix(entry.value)
            for first, second in pairwise(long):  # a matrix for each head or group
                for entry in env.everywhere(shape[first] * shape[second]):
                    fix(entry.value)
    return True


def _attach(flow: Flow, env: Env, tensor: str, axis: int) -> None:
    size = flow.shapes[tensor][axis]
    found = env.visible(size) + [e for e in env.inputs if size_of(e.value) == size]
    if found:
        for other in found[1:]:
            tie_values(found[0].value, other.value)
        flow.put(tensor, axis, found[0].value)


def _recurrent(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    """PyTorch's RNN, LSTM and GRU: `weight_ih_l0` [gates x hidden, in], `weight_hh_l0` [gates x hidden, hidden]."""
    tensors = node.tensors
    if "recurrent_kernel" in tensors:
        return _keras_recurrent(flow, node, env, newest)
    first = "weight_ih_l0" if "weight_ih_l0" in tensors else "weight_ih"
    value = read_value(flow, node, env, tensors[first][1][1], newest)
    if value is None:
        return False
    layer = 0
    while True:
        outputs: list[Dim] = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse", "") if layer == 0 else (f"_l{layer}", f"_l{layer}_reverse"):
            if f"weight_ih{suffix}" not in tensors:
                continue
            name_ih, name_hh = tensors[f"weight_ih{suffix}"][0], tensors[f"weight_hh{suffix}"][0]
            rows, width = flow.shapes[name_hh]
            projected = f"weight_hr{suffix}" in tensors
            hidden = Dim(flow.shapes[tensors[f"weight_hr{suffix}"][0]][1] if projected else width)
            out = Dim(width) if projected else hidden
            gates = (view(hidden, outer=rows // hidden.size),)
            flow.put(name_ih, 0, gates)
            flow.put(name_ih, 1, value)
            flow.put(name_hh, 0, gates)
            flow.put(name_hh, 1, (out,))
            for bias in (f"bias_ih{suffix}", f"bias_hh{suffix}"):
                if bias in tensors:
                    flow.put(tensors[bias][0], 0, gates)
            if projected:
                flow.put(tensors[f"weight_hr{suffix}"][0], 0, (out,))
                flow.put(tensors[f"weight_hr{suffix}"][0], 1, (hidden,))
            outputs.append(out)
        if not outputs:
            break
        value = tuple(outputs)
        layer += 1
    flow.note(node, "recurrent")
    env.add(value)
    return True


def _keras_recurrent(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    """Keras' cells: `kernel` [in, gates x hidden], `recurrent_kernel` [hidden, gates x hidden]."""
    kernel, recurrent = node.tensors["weight"][0], node.tensors["recurrent_kernel"][0]
    value = read_value(flow, node, env, flow.shapes[kernel][0], newest)
    if value is None:
        return False
    width, rows = flow.shapes[recurrent]
    hidden = Dim(width)
    gates = (view(hidden, outer=rows // width),)
    flow.put(kernel, 0, value)
    flow.put(kernel, 1, gates)
    flow.put(recurrent, 0, (hidden,))
    flow.put(recurrent, 1, gates)
    if "bias" in node.tensors:
        bias = node.tensors["bias"][0]
        flow.put(bias, len(flow.shapes[bias]) - 1, gates)
    flow.note(node, "recurrent")
    env.add((hidden,))
    return True


RUN = {
    "linear": _linear,
    "conv": _conv,
    "norm": _norm,
    "embedding": _embedding,
    "parameter": _parameter,
    "recurrent": _recurrent,
}
