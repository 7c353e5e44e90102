"""What lies in attention beside its projections: norms, tables of relative positions, reductions, biases."""

import re
from collections.abc import Mapping

from wsrl.wiring.attention_heads import BIAS, BIAS_MLP, CODE_BIAS, CODES, PER_HEAD, Q_NORM, TABLE, TWIN, Site
from wsrl.wiring.attention_roles import units
from wsrl.wiring.dims import Dim, Value, fix, size_of, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.trace import Step, groups
from wsrl.wiring.tree import Node, Shape
from wsrl.wiring.wiring import Fact

SUB_NORM = re.compile(r"sub_?(layer)?norm|sub_?ln|inner.*(norm|ln)", re.I)
GATE = re.compile(r"(^|[.])((attn_|attention_|output_)?gate|g|gate)(_proj)?$", re.I)  # of what heads return
REDUCTION = re.compile(r"(^|[.])(sr|spatial_reduction|sequence_reduction|kv_down|down|pool)", re.I)


def put_weight(flow: Flow, leaf: Node, inputs: Value, outputs: Value) -> None:
    """Says what a dense layer or convolution reads and returns."""
    name, shape = leaf.tensors.get("in_proj_weight") or leaf.tensors["weight"]
    last = len(shape) - 1
    axis_in, axis_out = (last - 1, last) if leaf.transposed else (1, 0)
    if size_of(inputs) == shape[axis_in]:
        flow.reads(name, axis_in, inputs)
    else:  # a grouped convolution
        fix(inputs)
        fix(outputs)
    flow.writes(name, axis_out, outputs)
    flow.writes_vectors(leaf, outputs)


def note_attention(site: Site, facts: Mapping[str, Fact]) -> None:
    """Records the operations of an attention layer: what prepares its input, projections, what acts on them, output."""
    flow, rest = site.flow, list(site.rest)
    prepares = [leaf for leaf in rest if leaf.kind in ("linear", "conv") and REDUCTION.search(_relative(site, leaf))]
    for leaf in prepares:
        flow.note(leaf, leaf.kind, site.memory, site.memory)
    before, after = _stream_norms(site)
    for leaf in before:
        flow.note(leaf, "norm").source = "assumed"
    steps: dict[str, Step] = {}
    for role in sorted(site.parts.keys() - {"o"}, key=("q", "qk", "qkv", "k", "kv", "v").index):
        taken = site.memory if role in ("k", "v", "kv") else site.read
        own = {"part": Fact(role, "names"), **facts}
        steps[role] = flow.note(site.parts[role], "attention", taken, facts=own)
    projections = tuple(steps.values())
    mixed = list(projections)
    for leaf in rest:
        if leaf in (*prepares, *before, *after):
            continue
        normed: Step | None = None
        if Q_NORM.search(_relative(site, leaf)):
            letter = "k" if _is_key(_relative(site, leaf)) else "q"
            normed = next((s for role, s in steps.items() if letter in role), None)
        layer = leaf.kind in ("norm", "linear", "conv")
        mixed.append(flow.note(leaf, leaf.kind if layer else "parameter", after=(normed,) if normed else projections))
    if "o" in site.parts:
        own = {"part": Fact("o", "names"), **facts}
        flow.note(site.parts["o"], "attention", after=tuple(mixed), facts=own)
    for leaf in after:
        flow.note(leaf, "norm").joins = True


def _stream_norms(site: Site) -> tuple[list[Node], list[Node]]:
    """Norms of what attention reads, and norms of what its output projection returns or is added to."""
    out = site.parts.get("o")
    stream = groups((*site.read, *site.memory))
    before: list[Node] = []
    after: list[Node] = []
    for leaf in site.rest:
        axes = [value for tensor, _ in leaf.tensors.values() for value in site.flow.axes[tensor] if value is not None]
        if leaf.kind != "norm" or not any(group in stream for value in axes for group in groups(value)):
            continue
        beside_out = out is not None and leaf.path[:-1] == out.path[:-1] and len(out.path) > len(site.node.path) + 1
        (after if beside_out else before).append(leaf)
    return before, after


def _relative(site: Site, leaf: Node) -> str:
    return ".".join(leaf.path[len(site.node.path) :])


def _is_key(relative: str) -> bool:
    return bool(re.search(r"(^|_)k(_|$|n)|key", relative, re.I))


def is_harmless(leaf: Node, depth: int, heads: int) -> bool:
    """Whether a layer in attention is one of those that are understood here.

    Args:
      depth: length of the path of the attention layer.
      heads: that `config.json` tells, or 0.
    """
    relative = ".".join(leaf.path[depth:])
    along_heads = leaf.kind == "conv" and leaf.weight[:2] == (heads, 1)
    beside = leaf.kind == "linear" and any(pattern.search(relative) for pattern in (GATE, CODES, TWIN))
    return along_heads or beside or any(pattern.search(relative) for pattern in (REDUCTION, PER_HEAD, TABLE, BIAS_MLP))


def put_extras(site: Site) -> None:
    """Wires all that lies in an attention layer beside its projections; what is not understood is fixed."""
    _bias_mlp(site.flow, [leaf for leaf in site.rest if BIAS_MLP.search(leaf.dotted)], site.q)
    for leaf in site.rest:
        if not BIAS_MLP.search(leaf.dotted):
            _extra(site, leaf)


def _extra(site: Site, leaf: Node) -> None:
    flow, relative = site.flow, _relative(site, leaf)
    shapes = [shape for _, shape in leaf.tensors.values()]
    narrow = leaf.kind == "conv" and leaf.weight[1] == 1 and leaf.weight[0] < size_of(site.read)
    if CODE_BIAS.fullmatch(leaf.name) or (leaf.kind == "linear" and CODES.search(relative)):
        _code(site, leaf)
    elif re.search(r"pool_[qkv]|norm_v", relative):  # of each head
        fix((site.q, site.k, site.v))
    elif "pos_embed" in relative and all(s[-1] == size_of(site.read) != site.q.find()[2] for s in shapes):
        for tensor, shape in leaf.tensors.values():
            flow.passes(tensor, len(shape) - 1, site.read)
    elif TABLE.search(leaf.dotted) or PER_HEAD.search(leaf.dotted) or narrow:
        _per_head(flow, leaf, site.q)
    elif BIAS.fullmatch(leaf.name) and leaf.kind == "parameter":
        tensor, shape = leaf.tensors["value"]
        (dim,) = site.rows(leaf.name[0])
        if shape == (dim.size,):
            flow.passes(tensor, 0, (dim,))
        else:
            fix((dim,))
    elif leaf.kind == "norm":
        _norm(site, leaf, relative)
    elif leaf.kind == "linear" and TWIN.search(relative):
        letter = "q" if relative.endswith("_query") else relative.rpartition(".")[2][0]
        (rows,) = site.rows(letter)
        if rows.size == units(leaf):
            put_weight(flow, leaf, site.read if letter == "q" else site.memory, (rows,))
        else:
            fix((rows, *site.read, *site.memory))
    elif leaf.kind == "linear" and GATE.search(relative):
        _gate(site, leaf)
    elif REDUCTION.search(relative) and leaf.kind in ("linear", "conv"):
        _reduction(site, leaf)
    elif re.search(r"rel_pos|height_rel|width_rel|pos_emb|distance_emb", leaf.dotted):
        for shape in shapes:  # [places, dim] that queries meet: fixed within heads, the same for all
            fix([dim for dim in (site.q, site.k) if dim.find()[2] != shape[-1]])
    else:
        _not_understood(site, shapes)


def _code(site: Site, leaf: Node) -> None:
    """A layer that reads codes of distances, or a bias of heads: what it holds meets queries or is added to them."""
    tensor, shape = leaf.tensors.get("weight") or leaf.tensors["value"]
    root, outer, _ = site.q.find()
    if leaf.kind == "linear" and shape[0] == site.q.size:
        site.flow.writes(tensor, 0, (site.q,))
        site.flow.writes_vectors(leaf, (site.q,))
    elif leaf.kind != "linear" and outer == 1 and len(shape) == 2 and shape[0] % root.size == 0:
        site.flow.put(tensor, 0, (view(root, inner=shape[0] // root.size),))
    else:
        fix((site.q, site.k))


def _gate(site: Site, leaf: Node) -> None:
    """A layer that reads what attention reads and scales what its heads return: unit by unit, or head by head."""
    rows: Value = (site.result,)
    if units(leaf) != site.result.size:
        by_head = site.heads is not None and units(leaf) % site.heads.size == 0 and units(leaf) <= site.q.size
        rows = (view(site.heads, inner=units(leaf) // site.heads.size),) if by_head and site.heads else ()
    if not rows:
        fix((site.v,))
    put_weight(site.flow, leaf, site.read, rows or (Dim(units(leaf), fixed=True),))


def _not_understood(site: Site, shapes: list[Shape]) -> None:
    sizes = {n for shape in shapes for n in shape if n > 1}
    for value in (site.read, site.memory):
        if size_of(value) in sizes:
            fix(value)
    for dim in (site.q, site.k, site.v):
        multiple = any(dim.size % n == 0 or n % dim.size == 0 for n in sizes)  # the width of heads, or whole heads
        if multiple or sizes & {dim.find()[0].size, dim.find()[2]}:
            fix((dim,))


def _reduction(site: Site, leaf: Node) -> None:
    """A convolution over the maps that keys and values read."""
    name, shape = leaf.tensors["weight"]
    if shape[0] == size_of(site.read) == shape[1]:
        put_weight(site.flow, leaf, site.memory, site.memory)
    elif shape[1] == 1 and shape[0] == size_of(site.read):
        site.flow.passes(name, 0, site.memory)
        site.flow.writes_vectors(leaf, site.memory)
    else:
        fix(site.memory)


def _bias_mlp(flow: Flow, leaves: list[Node], q: Dim) -> None:
    """A small network that computes an offset a head from relative positions."""
    before: Value | None = None
    layers = [leaf for leaf in leaves if leaf.kind == "linear"]
    for leaf in leaves:
        if leaf.kind != "linear":
            if before is not None and leaf.kind == "norm":
                flow.passes_vectors(leaf, before)
            continue
        name, shape = leaf.tensors["weight"]
        if before is not None and size_of(before) == shape[1]:
            flow.reads(name, 1, before)
        elif before is not None:
            fix(before)
        root, outer, _ = q.find()
        if leaf is not layers[-1]:
            before = (Dim(shape[0]),)
        elif outer == 1 and root.size == shape[0]:
            before = (view(root),)
        else:
            before = (Dim(shape[0], fixed=True),)
            if outer == 1:
                fix((q,))
        flow.writes(name, 0, before)
        flow.writes_vectors(leaf, before)


def _per_head(flow: Flow, leaf: Node, q: Dim) -> None:
    """One number a head, or a column a head of a table."""
    root, outer, inner = q.find()
    for tensor, shape in leaf.tensors.values():
        column = 0 if "attention_biases" in leaf.name else len(shape) - 1
        for axis, n in enumerate(shape):
            whole = n > 1 and outer == 1 and n % root.size == 0 and inner % (n // root.size) == 0
            if whole and (axis == column or not TABLE.search(leaf.dotted)):
                flow.put(tensor, axis, (view(root, inner=n // root.size),))


def _norm(site: Site, leaf: Node, relative: str) -> None:
    size = max((max(shape, default=1) for _, shape in leaf.tensors.values()), default=1)
    if SUB_NORM.search(leaf.name):
        if size == site.result.size:
            site.flow.passes_vectors(leaf, (site.result,))
        else:
            fix((site.v, *site.read))
    elif Q_NORM.search(relative):
        _query_norm(site, leaf, relative, size)
    elif not _norm_of_part(site, leaf, size):
        _norm_of_stream(site, leaf, size)


def _query_norm(site: Site, leaf: Node, relative: str, size: int) -> None:
    """A norm of queries or keys, whole or head by head."""
    is_key = _is_key(relative)
    is_query = re.search(r"q", leaf.name + relative.split(".")[0], re.I)
    own = site.q if is_query and not is_key else site.k
    root, _, inner = own.find()
    width = root.size * inner
    whole_blocks = own.size % size == 0 and inner % size == 0  # one norm for all heads, which are blocks of the group
    if re.search(r"\d", relative) or own.size % size:  # a norm for each head
        fix((site.q, site.k))
    elif size == own.size:
        site.flow.passes_vectors(leaf, (own,))
    elif size % width == 0:
        site.flow.passes_vectors(leaf, (view(root, outer=size // width, inner=inner),))
    elif not whole_blocks:
        fix((site.q, site.k))


def _norm_of_part(site: Site, leaf: Node, size: int) -> bool:
    """Wires a norm that shares a container with a single projection; False where there is none."""
    depth = len(site.node.path) + 1
    for role, part in site.parts.items():
        if leaf.path[:-1] != part.path[:-1] or len(part.path) <= depth:
            continue
        alone = sum(leaf.path[:-1] == other.path[:-1] for other in site.parts.values()) == 1
        if alone and role != "o":
            value = site.rows(role)
            if size == size_of(value):
                site.flow.passes_vectors(leaf, value)
            else:
                fix((site.q, site.k, site.v))
            return True
        if role == "o" and size == units(part):
            out = site.flow.axes[part.tensors["weight"][0]][0]
            site.flow.passes_vectors(leaf, site.read if size == size_of(site.read) else out or site.read)
            return True
    return False


def _norm_of_stream(site: Site, leaf: Node, size: int) -> None:
    """Wires a norm of what attention reads, or of what its output projection reads."""
    beside = {part.path[:-1] for part in site.parts.values()}
    block = site.node.parent.children.values() if site.node.parent else ()
    before = any(c.kind == "norm" and "weight" in c.tensors and c.weight[-1:] == (size_of(site.read),) for c in block)
    inner = bool(re.fullmatch(r"norm|inner_attn_ln|sub_norm|subln|ln", leaf.name)) and leaf.path[:-1] in beside
    inner = inner and (before or size != size_of(site.read))
    layers = [other for other in site.node.leaves() if other.kind in ("conv", "linear")]
    reduces = any(REDUCTION.search(".".join(other.path[len(site.node.path) :])) for other in layers)
    if size == size_of(site.read) and not (inner and not reduces and "qkv" in site.parts):
        site.flow.passes_vectors(leaf, site.read)
        if site.memory is not site.read and size == size_of(site.memory):
            tie_values(site.read, site.memory)
    elif size == size_of(site.memory) and site.memory is not site.read:
        site.flow.passes_vectors(leaf, site.memory)
    elif size == site.v.size and not reduces:
        site.flow.passes_vectors(leaf, (site.v,))
        if size == size_of(site.read):
            fix(site.read)
    else:
        fix((site.q, site.k, site.v, *site.read, *site.memory))
