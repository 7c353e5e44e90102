"""What single modules read and return: dense layers, norms, embeddings, bare parameters."""

import re
from itertools import pairwise
from math import gcd

from wsrl.wiring.convolutions import run_conv
from wsrl.wiring.dims import Dim, Value, fix, mark, tie, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.reading import joined_values, read_value, repeated
from wsrl.wiring.recurrent import is_gate, run_recurrent
from wsrl.wiring.trace import norm_type
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Entry, Env

TOKENS = re.compile(r"pos|token|embed|latent|quer|probe|prompt|cls|mask|time|register", re.I)
MOMENTS = re.compile(
    r"((fc|to|linear|z|layer|hidden2|h2)_?)?(mu|mean|var|logvar|log_var|log_?std|log_?sigma|sigma)(_layer|_head)?", re.I
)
# what such a layer returns may be returned by the network, too
FEATURES = re.compile(r"(fc_)?(feats?|features?|codes?|bottleneck)(_layer)?|to_latent|fc_latent", re.I)
RELATIVE = re.compile(r"rel(ative)?_", re.I)
POSITIONS = re.compile(r"pos|wpe", re.I)


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
    flow.reads(name, axis_in, value)
    out = (Dim(shape[axis_out]),)
    flow.writes(name, axis_out, out)
    flow.writes_vectors(node, out)
    if is_gate(node):
        fix((*value, *out))  # the state lies beside the input, before or after it
    narrows = shape[axis_out] < shape[axis_in] and node.parent is flow.root
    if MOMENTS.fullmatch(node.name) or _is_twin(node) or (narrows and FEATURES.fullmatch(node.name)):
        mark(out, "output")
    flow.note(node, "linear")
    env.add(out, dense=True)
    return True


def _is_twin(node: Node) -> bool:
    """Whether a layer is one of two that read the same and are returned side by side (`fc21`, `fc22`)."""
    match = re.fullmatch(r"(\D+\d)([12])", node.name)
    other = node.parent.children.get(match[1] + "21"[int(match[2]) - 1]) if match and node.parent else None
    later = node.parent.children.get(f"{match[1][:-1]}{int(match[1][-1]) + 1}") if match and node.parent else None
    return other is not None and other.kind == "linear" and other.weight == node.weight and later is not None


def _norm(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    size = max(max(shape, default=1) for _, shape in node.tensors.values())
    flow.note(node, norm_type(node))
    if size == 1:
        return True
    with flow.reading_on():
        entry = flow.pick(env, size, node, newest) if env.visible(size) or env.is_unknown() else None
        value = entry.value if entry is not None else _merged(flow, node, env, size)
    if entry is None:
        if value is not None:
            flow.passes_vectors(node, value)
        return value is not None
    if (
        entry in env.entries
        and entry.dense
        and env.parent is not None
        and not env.only_last
        and "mean" not in node.tensors
    ):
        for outside in env.parent.visible(size):  # the norm may follow a sum
            if not outside.heads:
                tie_values(entry.value, outside.value)
    _loosen_group_norm(flow, node, entry)
    flow.passes_vectors(node, entry.value)
    return True


def _merged(flow: Flow, node: Node, env: Env, size: int) -> Value | None:
    """Several values, or several views of one, side by side."""
    last = env.last()
    merged = last is not None and size == 4 * last.size and not last.spatial
    value = repeated(flow, node, env, last, size) if last is not None and merged else None
    return value or joined_values(flow, env, size)


def _loosen_group_norm(flow: Flow, node: Node, entry: Entry) -> None:
    """Norms without statistics beside convolutions may be group norms: 32 groups and fewer, or groups of 8 and more."""
    named = re.search(r"group_?norm|^gn\d*$", node.name, re.I)
    siblings = node.parent.children.values() if node.parent else ()
    beside = any(c.kind == "conv" and not c.name.startswith("proj") for c in siblings)
    plain = entry.spatial and (beside or flow.group_norms) and re.fullmatch(r"norm\d*|bn\d*", node.name)
    if "mean" in node.tensors or not (named or plain or _follows_convolution(node)):
        return
    flow.group_norms |= any(re.fullmatch(r"conv\d", c.name) for c in siblings)
    for dim in entry.value:
        within = gcd(dim.size // 32, 8)
        if dim.size % 32 or within < 2:
            fix((dim,))
        else:
            tie(dim, view(Dim(within), outer=dim.size // within))


def _follows_convolution(node: Node) -> bool:
    """Whether a member of a list comes right after a convolution, other than one that cuts a map into patches, or after
    an activation of what that returns."""
    beside = node.parent.children if node.parent and node.name.isdigit() else {}
    names = [str(int(node.name) - i) for i in (1, 2)] if beside else []
    before = next((beside[name] for name in names if name in beside), None)
    return before is not None and before.kind == "conv" and (min(before.weight[2:]) % 2 == 1 or before.transposed)


def _embedding(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    name, shape = node.tensors["weight"]
    flow.reads(name, 0, (Dim(shape[0], role="input"),))
    out = (Dim(shape[1]),)
    flow.writes(name, 1, out)
    flow.note(node, "embedding")
    if RELATIVE.match(node.name):  # projections of keys and queries read it, nothing is added to it
        flow.tables.append(out)
        return True
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
        elif TOKENS.search(node.name) and "proj" not in node.name and len(long) >= 2:
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
    found = env.visible(size) + [e for e in env.inputs if e.size == size]
    if found:
        for other in found[1:]:
            tie_values(found[0].value, other.value)
        flow.passes(tensor, axis, found[0].value)


RUN = {
    "linear": _linear,
    "conv": run_conv,
    "norm": _norm,
    "embedding": _embedding,
    "parameter": _parameter,
    "recurrent": run_recurrent,
}
