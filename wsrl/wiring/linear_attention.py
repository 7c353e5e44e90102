"""Linear attention with decays and delta rules (Yang et al., Gated DeltaNet, 2025; Kimi Team, Kimi Linear, 2025)."""

from collections.abc import Callable, Mapping
from math import gcd, prod

from wsrl.wiring.attention_config import told
from wsrl.wiring.dims import Dim, Value, fix, size_of, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

READERS = {  # what projections of the stream return, one after the other or, after "|", key head by key head
    "in_proj_qkvz": "|qkvv", "in_proj_ba": "|nn", "in_proj_qkv": "qkv", "in_proj_z": "v", "in_proj_a": "n",
    "in_proj_b": "n", "q_proj": "q", "k_proj": "k", "v_proj": "v", "g_proj": "v", "a_proj": "n", "b_proj": "n",
}  # fmt: skip
NARROW = {"f_a_proj": ("f_b_proj", "q"), "g_a_proj": ("g_b_proj", "v")}  # projections by way of a narrow layer
CONVOLUTIONS = {"conv1d": "qkv", "q_conv1d": "q", "k_conv1d": "k", "v_conv1d": "v"}
HEADS = ("A_log", "dt_bias")
NORMS = ("norm", "o_norm")
WRITERS = ("out_proj", "o_proj")
KNOWN = {*READERS, *NARROW, *(name for name, _ in NARROW.values()), *CONVOLUTIONS, *HEADS, *NORMS, *WRITERS}


def run_linear_attention(config: Mapping, flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a container that is linear attention with a decay for each head; None for any other module.

    A key head and the value heads that share it make a block of each projection's rows, and blocks may be exchanged.
    Where the number of key heads is not known, entries of values are permuted within heads, and those of keys and
    queries within the smallest heads that are possible.

    Args:
      config: `config.json`, or empty.
    """
    weights = {name: child.own_shape for name, child in node.children.items()}
    out = next((name for name in WRITERS if name in weights), "")
    if not out or not weights.keys() <= KNOWN or "A_log" not in weights or not weights.keys() & CONVOLUTIONS.keys():
        return None
    if not all(_is_plain(child) for child in node.children.values()):
        return None
    width, values = weights[out]
    heads = max(weights["A_log"])
    keys = _width_of_keys(weights, values)
    if values % heads or not keys:
        return None
    entry = flow.pick(env, width, node)
    if entry is None:
        return False
    known = heads if "f_a_proj" in weights else told(config, "linear_num_key_heads") or 0
    blocked = any(READERS.get(name, "").startswith("|") for name in weights)
    known = known if known > 1 and heads % known == 0 and keys % known == 0 else 0
    if known:
        head = Dim(known)
        sizes = {"q": keys // known, "k": keys // known, "v": values // known, "n": heads // known}
        dims = {letter: view(head, inner=size) for letter, size in sizes.items()}
    else:
        key = Dim(keys // gcd(keys, heads), fixed=blocked)
        dims = {"v": view(Dim(values // heads, fixed=blocked), outer=heads), "n": Dim(heads, fixed=True)}
        dims |= dict.fromkeys("qk", view(key, outer=keys // key.size))
        sizes = {}

    def rows(letters: str) -> Value:
        if not letters.startswith("|"):
            return tuple(dims[letter] for letter in letters)
        if not known:
            return (Dim(sum(dims[letter].size for letter in letters[1:]), fixed=True),)
        return (view(dims["q"].find()[0], inner=sum(sizes[letter] for letter in letters[1:])),)

    plan = _plan(weights, rows, entry.value)
    plan.append((out, rows("v"), (Dim(width),)))
    if not all(_fits(weights[name], inputs, outputs) for name, inputs, outputs in plan):
        return None
    for name, inputs, outputs in plan:
        child = node.children[name]
        if inputs is None:
            tensor, shape = child.tensors.get("weight") or child.tensors["value"]
            flow.passes(tensor, shape.index(max(shape)), outputs)
        else:
            flow.reads(child.tensors["weight"][0], 1, inputs)
            flow.writes(child.tensors["weight"][0], 0, outputs)
        if child.kind != "parameter":
            flow.writes_vectors(child, outputs)
    _norm(flow, node, dims["v"], bool(known))
    for name in (*READERS, *KNOWN - READERS.keys() - set(WRITERS), *WRITERS):
        if name in node.children:
            flow.note(node.children[name], "attention")
    tie_values(entry.value, plan[-1][2])
    env.add(plan[-1][2])
    return True


Plan = list[tuple[str, Value | None, Value]]


def _plan(weights: Mapping[str, tuple[int, ...]], rows: Callable[[str], Value], stream: Value) -> Plan:
    """(module, what it reads or None where it hands on its input, what it returns), but for the output projection."""
    plan: Plan = [(name, stream, rows(letters)) for name, letters in READERS.items() if name in weights]
    for name, (wide, letter) in NARROW.items():
        if name in weights and wide in weights:
            narrow = (Dim(weights[name][0]),)
            plan += [(name, stream, narrow), (wide, narrow, rows(letter))]
    plan += [(name, None, rows(letters)) for name, letters in CONVOLUTIONS.items() if name in weights]
    for name in HEADS:
        if name in weights:
            by_key = max(weights[name]) == size_of(rows("q")) != size_of(rows("n"))
            plan.append((name, None, rows("q" if by_key else "n")))
    return plan


def _fits(shape: tuple[int, ...], inputs: Value | None, outputs: Value) -> bool:
    if inputs is None:
        return size_of(outputs) in shape and prod(shape) == size_of(outputs) * (shape[-1] if len(shape) == 3 else 1)
    return shape == (size_of(outputs), size_of(inputs))


def _is_plain(child: Node) -> bool:
    """Whether a module is of the kind that its name says."""
    shape = child.own_shape
    if child.name in CONVOLUTIONS:
        return child.kind == "conv" and len(shape) == 3 and not child.transposed
    if child.name in HEADS:
        return child.kind == "parameter" and len(shape) > 0
    if child.name in NORMS:
        return child.kind == "norm" and len(shape) == 1
    return child.kind == "linear" and not child.transposed


def _norm(flow: Flow, node: Node, value: Dim, known: bool) -> None:
    """A norm within each value head; where heads are exchanged it is the same for all of them."""
    root, outer, _ = value.find()
    for name in NORMS:
        child = node.children.get(name)
        if child is not None:
            flow.note(child, "norm")
            if not known and child.weight == (root.size,) and outer > 1:
                flow.passes_vectors(child, (root,))
            elif child.weight[-1] == value.size or not known:
                fix((value,))


def _width_of_keys(weights: Mapping[str, tuple[int, ...]], values: int) -> int:
    """Entries of the keys of all heads, 0 where nothing tells."""
    if "k_proj" in weights:
        return weights["k_proj"][0]
    both = weights.get("conv1d", (values,))[0] - values
    return both // 2 if both % 2 == 0 else 0
