"""Latent attention (DeepSeek-AI, DeepSeek-V2, 2024, section 2.1): queries, keys and values from latent vectors."""

from collections.abc import Mapping

from wsrl.wiring.dims import Dim, Value, fix, size_of, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.rim import run_rim
from wsrl.wiring.trace import Step
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

PARTS = (  # in order
    *("q_proj", "q_a_proj", "q_a_layernorm", "q_b_proj"),
    *("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj"),
)
MIXED = ("q_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")  # what attention computes its result from


def run_latent_attention(flow: Flow, node: Node, env: Env, heads: int) -> bool | None:
    """Runs a container that is latent attention; None for any other module.

    `kv_a_proj_with_mqa` returns the latent vector and, after it, the part of the key that turns with the position
    and stays in order. Rows of `q_b_proj` and `kv_b_proj` lie head by head.
    """
    if not all(part in node.children for part in ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")):
        return None
    down, up, out = (node.children[n].tensors["weight"] for n in ("kv_a_proj_with_mqa", "kv_b_proj", "o_proj"))
    narrowed = [
        node.children[name].weight[i] for name, i in (("q_a_proj", 0), ("q_b_proj", 1)) if name in node.children
    ]
    if len(set(narrowed)) > 1:  # queries are joined with something else
        return run_rim(flow, node, env)
    entry = flow.pick(env, down[1][1], node)
    if entry is None:
        return False
    latent = Dim(up[1][1])
    group = Dim(heads, fixed=heads < 1 or up[1][0] % max(heads, 1) > 0 or out[1][1] % max(heads, 1) > 0)
    rotary = Dim(down[1][0] - latent.size, fixed=True)

    def by_head(size: int) -> Value:
        return (Dim(size, fixed=True),) if group.fixed else (view(group, inner=size // heads),)

    def attach(name: str, inputs: Value, outputs: Value) -> None:
        child = node.children[name]
        flow.reads(child.tensors["weight"][0], 1, inputs)
        flow.writes(child.tensors["weight"][0], 0, outputs)
        flow.writes_vectors(child, outputs)

    attach("kv_a_proj_with_mqa", entry.value, (latent, rotary))
    flow.passes_vectors(node.children["kv_a_layernorm"], (latent,))
    attach("kv_b_proj", (latent,), by_head(up[1][0]))
    narrow: dict[str, Value] = {"latent": (latent,)}
    if "q_b_proj" in node.children:
        query = Dim(node.children["q_b_proj"].weight[1])
        narrow["query"] = (query,)
        attach("q_a_proj", entry.value, (query,))
        flow.passes_vectors(node.children["q_a_layernorm"], (query,))
        attach("q_b_proj", (query,), by_head(node.children["q_b_proj"].weight[0]))
    elif "q_proj" in node.children:
        attach("q_proj", entry.value, by_head(node.children["q_proj"].weight[0]))
    else:
        fix(entry.value)
    result = (Dim(out[1][0]),)
    attach("o_proj", by_head(out[1][1]), result)
    others = [name for name in node.children if name not in PARTS]
    steps: list[Step] = []
    for name in (*PARTS, *others):
        if name in node.children:
            child = node.children[name]
            after = tuple(s for s in steps if s.node.name in MIXED) if name == "o_proj" else None
            steps.append(flow.note(child, "norm" if child.kind == "norm" else "attention", after=after))
        if name in others and not _reads_alone(flow, node.children[name], {"stream": entry.value, **narrow}):
            fix((*entry.value, latent, group, *(dim for value in narrow.values() for dim in value)))
    if size_of(result) == size_of(entry.value):
        tie_values(result, entry.value)
    env.add(result)
    return True


def _reads_alone(flow: Flow, node: Node, values: Mapping[str, Value]) -> bool:
    """Wires an indexer, which chooses keys (DeepSeek-AI, DeepSeek-V3.2, 2025); False where it is not plain.

    Each of its layers reads the value of the size that it takes, and nothing else has the size of any of them.
    """
    sizes = {size_of(value) for value in values.values()}
    leaves = list(node.leaves())
    layers = [leaf for leaf in leaves if leaf.kind == "linear"]
    made = {
        n for leaf in leaves for _, shape in leaf.tensors.values() for n in (shape[:1] if leaf in layers else shape)
    }
    if "index" not in node.name or len(sizes) < len(values) or made & sizes or {i.fan_in for i in layers} - sizes:
        return False
    for leaf in layers:
        value = next(value for value in values.values() if size_of(value) == leaf.fan_in)
        flow.reads(leaf.tensors["weight"][0], 1, value)
    return True
