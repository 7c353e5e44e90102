"""Latent attention (DeepSeek-AI, DeepSeek-V2, 2024, section 2.1): queries, keys and values from latent vectors."""

from wsrl.wiring.dims import Dim, Value, fix, size_of, tie_values, view
from wsrl.wiring.flow import Flow
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
    if "q_b_proj" in node.children:
        query = Dim(node.children["q_b_proj"].weight[1])
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
        if name in others:
            fix((*entry.value, latent, group))
    if size_of(result) == size_of(entry.value):
        tie_values(result, entry.value)
    env.add(result)
    return True
