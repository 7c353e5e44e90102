"""Checkpoints with hand-made wirings: a perceptron, a small ResNet, a network named like BERT."""

import re

import numpy as np

from wsrl.wiring.wiring import Fact, Neurons, Operation, Segment, Wiring

FIXED = "-"


NORM_ROLES = {"weight": "gain", "bias": "shift", "running_mean": "mean", "running_var": "variance"}


def operation(path, type, shapes, inputs=()):
    """The operation of the tensors of a module; weights of PyTorch write their first axis, others their last ones."""
    tensors, reads, writes = {}, [], []
    for name, shape in shapes.items():
        role = re.split("[./]", name)[-1] or "value"
        every = [(name, axis) for axis in range(len(shape))]
        if "norm" in type:
            role = NORM_ROLES[role]
            reads, writes = reads + every, writes + every
        elif "bias" in role:
            writes += every
        elif type in ("embedding", "parameter") or role == "kernel":
            split = 1 if path.rpartition("/")[2] in ("key", "query", "value") else len(shape) - 1
            reads, writes = reads + every[:split], writes + every[split:]
        else:
            reads, writes = reads + every[1:2], writes + every[:1]
        tensors["weight" if role == "kernel" else role] = name
    facts = {"epsilon": Fact(1e-5, "assumed")} if "norm" in type else {}
    return Operation(path, type, tensors, tuple(reads), tuple(writes), tuple(inputs), "names", facts)


def make(groups, types, tensors, ignored=(), warnings=()):
    """A wiring from `tensors`, name -> (lengths, groups): an axis is `g`, `3*g`, `g*64` or fixed, `-`.

    Operations come in the order of the tensors, each reading the one before it.
    """

    def axis(text, length):
        if text == FIXED:
            return None
        outer, group, inner = re.fullmatch(r"(?:(\d+)\*)?(\w+?)(?:\*(\d+))?", text).groups()
        segment = Segment(group, groups[group].size, int(outer or 1), int(inner or 1))
        assert segment.length == length
        return (segment,)

    axes = {n: tuple(axis(t, k) for t, k in zip(a.split(), s, strict=True)) for n, (s, a) in tensors.items()}
    modules = {}
    for name, (shape, _) in tensors.items():
        if name not in ignored:
            modules.setdefault(name.rpartition(".")[0], {})[name] = shape
    type = {path: next(t for pattern, t in types.items() if re.search(pattern, path)) for path in modules}
    return Wiring(
        groups=groups,
        shapes={n: s for n, (s, _) in tensors.items()},
        axes=axes,
        operations=tuple(
            operation(path, type[path], shapes, [i - 1] if i else [])
            for i, (path, shapes) in enumerate(modules.items())
        ),
        ignored=tuple(ignored),
        warnings=tuple(warnings),
    )


def arrays(wiring, dtype=np.float32):
    return {name: np.full(shape, 0.5, dtype) for name, shape in wiring.shapes.items()}


def mlp():
    groups = {
        "g0": Neurons(784, "input", False),
        "g1": Neurons(64, "hidden", True, "positive"),
        "g2": Neurons(64, "hidden", True, "positive"),
        "g3": Neurons(10, "output", False),
    }
    tensors = {}
    for i, (inputs, outputs) in enumerate([("g0", "g1"), ("g1", "g2"), ("g2", "g3")]):
        tensors[f"{2 * i}.weight"] = ((groups[outputs].size, groups[inputs].size), f"{outputs} {inputs}")
        tensors[f"{2 * i}.bias"] = ((groups[outputs].size,), outputs)
    return make(groups, {"": "linear"}, tensors)


def resnet():
    """Two stages of two blocks with batch norms, the second stage narrows the map and widens the stream."""
    groups = {"g0": Neurons(16, "hidden", True, "positive"), "g3": Neurons(32, "hidden", True, "positive")}
    groups |= {f"g{i}": Neurons(16, "hidden", True, "positive") for i in (1, 2)}
    groups |= {f"g{i}": Neurons(32, "hidden", True, "positive") for i in (4, 5)}
    groups["g6"] = Neurons(10, "output", False)
    tensors = {}

    def norm(path, group):
        for field in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{path}.{field}"] = ((groups[group].size,), group)

    def conv(path, out, into, taps=3):
        fan_in = 3 if into == FIXED else groups[into].size
        tensors[f"{path}.weight"] = ((groups[out].size, fan_in, taps, taps), f"{out} {into} - -")

    def block(path, inputs, hidden, outputs):
        if inputs != outputs:
            conv(f"{path}.downsample.0", outputs, inputs, taps=1)
            norm(f"{path}.downsample.1", outputs)
        conv(f"{path}.conv1", hidden, inputs)
        norm(f"{path}.bn1", hidden)
        conv(f"{path}.conv2", outputs, hidden)
        norm(f"{path}.bn2", outputs)

    conv("conv1", "g0", FIXED)
    norm("bn1", "g0")
    for i, (inputs, hidden, outputs) in enumerate(
        [("g0", "g1", "g0"), ("g0", "g2", "g0"), ("g0", "g4", "g3"), ("g3", "g5", "g3")]
    ):
        block(f"layer{i // 2 + 1}.{i % 2}", inputs, hidden, outputs)
    tensors["fc.weight"] = ((10, 32), "g6 g3")
    tensors["fc.bias"] = ((10,), "g6")
    return make(groups, {r"bn|downsample\.1": "batch norm", "conv|downsample": "conv", "fc": "linear"}, tensors)


def bert(layers=12, width=64, heads=4, vocabulary=1000):
    groups = {"g0": Neurons(width, "hidden", True)}
    tensors = {}
    inner = width // heads

    def linear(path, out, into, outputs, inputs):
        tensors[f"{path}.weight"] = ((out, into), f"{outputs} {inputs}")
        tensors[f"{path}.bias"] = ((out,), outputs)

    def norm(path):
        tensors[f"{path}.weight"] = tensors[f"{path}.bias"] = ((width,), "g0")

    for name, rows in (("position", 128), ("token_type", 2), ("word", vocabulary)):
        tensors[f"embeddings.{name}_embeddings.weight"] = ((rows, width), "- g0")
    norm("embeddings.LayerNorm")
    for i in range(layers):
        attended, hidden = f"g{2 * i + 1}", f"g{2 * i + 2}"
        groups |= {attended: Neurons(heads, "hidden", True), hidden: Neurons(4 * width, "hidden", True)}
        path, inner_heads = f"encoder.layer.{i}", f"{attended}*{inner}"
        for name in ("key", "query", "value"):
            linear(f"{path}.attention.self.{name}", width, width, inner_heads, "g0")
        linear(f"{path}.attention.output.dense", width, width, "g0", inner_heads)
        norm(f"{path}.attention.output.LayerNorm")
        linear(f"{path}.intermediate.dense", 4 * width, width, hidden, "g0")
        linear(f"{path}.output.dense", width, 4 * width, "g0", hidden)
        norm(f"{path}.output.LayerNorm")
    groups["pooled"] = Neurons(width, "hidden", True)
    linear("pooler.dense", width, width, "pooled", "g0")
    tensors["embeddings.position_ids"] = ((1, 128), "- -")
    return make(
        groups,
        {"LayerNorm": "norm", "embeddings": "embedding", "": "linear"},
        tensors,
        ignored=("embeddings.position_ids",),
        warnings=("nothing reads the outputs of pooler.dense",),
    )
