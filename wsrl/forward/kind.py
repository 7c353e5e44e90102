"""What kind of network a graph is, in the words that `wsrl.encoder.kind` has for programs."""

from wsrl.forward.graph import ForwardGraph, needed_steps

NORMS = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization")
PRODUCTS = ("MatMul", "Einsum")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
PREFIX = "operators: "


def is_run_by_operators(architecture: str) -> bool:
    """Whether a network of this class of architectures is run by its operators; its function vector is of that kind."""
    return architecture.startswith(PREFIX)


def graph_kind(graph: ForwardGraph) -> str:
    """Returns features of an architecture as words, behind `PREFIX`, which tells such networks from programs.

    norm, map, pooled: it has such operators; attention: it multiplies what a softmax returns; skip: it adds results of
    several operators.
    """
    steps = needed_steps(graph)
    ops = {step.op for step in steps}
    made = {name: step.op for step in steps for name in step.outputs}
    shares = any(step.op in PRODUCTS and any(made.get(n) == "Softmax" for n in step.inputs) for step in steps)
    sums = any(step.op in ("Add", "Sum") and all(name in made for name in step.inputs) for step in steps)
    shown = {
        "norm": bool(ops & {*NORMS}),
        "attention": shares,
        "map": "Conv" in ops,
        "pooled": bool(ops & {*POOLS}),
        "skip": sums,
    }
    return PREFIX + (" ".join(word for word, there in shown.items() if there) or "dense")
