"""Small networks with wirings written by hand, and random members of their symmetries."""

from dataclasses import replace

import numpy as np
from claims import operation

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.permute import mixed, permuted, rescaled
from wsrl.wiring.wiring import Neurons, Product, Segment, Slice, Wiring


def hidden(size, scale="none"):
    return Neurons(size, "hidden", True, scale)


def fixed(size, role="input"):
    return Neurons(size, role, False)


class Builder:
    """Collects tensors with their axes; an axis is None or (group, outer, inner, power) or a list of those."""

    def __init__(self, seed=0, **groups):
        self.groups = groups
        self.tensors, self.axes, self.modules, self.products = {}, {}, {}, []
        self.rng = np.random.default_rng(seed)

    def axis(self, spec):
        if spec is None:
            return None
        specs = spec if isinstance(spec, list) else [spec]
        segments = []
        for one in specs:
            group, outer, inner, power = (one, 1, 1, 0) if isinstance(one, str) else (*one, 0)[:4]
            segments.append(Segment(group, self.groups[group].size, outer, inner, power))
        return tuple(segments)

    def add(self, name, shape, *axes, kind="linear", positive=False):
        values = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 4)
        self.tensors[name] = (np.abs(values) + 0.5 if positive else values).astype(np.float32)
        self.axes[name] = tuple(self.axis(a) for a in axes)
        path = name.rpartition("/" if "/" in name else ".")[0]
        self.modules.setdefault(path, (kind, []))[1].append(name)

    def linear(self, path, outputs, inputs, out, into, bias=True, kind="linear"):
        self.add(f"{path}.weight", (outputs, inputs), out, into, kind=kind)
        if bias:
            self.add(f"{path}.bias", (outputs,), out, kind=kind)

    def build(self):
        shapes = {name: values.shape for name, values in self.tensors.items()}
        assert all(
            axis is None or sum(s.length for s in axis) == n
            for name, axes in self.axes.items()
            for axis, n in zip(axes, shapes[name], strict=True)
        )
        operations = tuple(
            operation(path or names[0], kind, {name: shapes[name] for name in names}, [i - 1] if i else [])
            for i, (path, (kind, names)) in enumerate(self.modules.items())
        )
        return Checkpoint("hand-made", self.tensors, {}), Wiring(
            self.groups, shapes, self.axes, operations, tuple(self.products)
        )


def transformer(seed=0, heads=3, dim=4, repeat=1, layers=2, qk=True):
    """Token embedding, pre-norm blocks with separate projections, grouped queries where `repeat` > 1, a head."""
    width, vocabulary, inner = 16, 11, 24
    groups = {"words": fixed(vocabulary), "x": hidden(width), "logits": fixed(vocabulary, "output")}
    for i in range(layers):
        groups |= {f"h{i}": hidden(heads), f"f{i}": hidden(inner)}
    b = Builder(seed, **groups)
    b.add("embed.weight", (vocabulary, width), "words", "x", kind="embedding")
    for i in range(layers):
        path, queries, keys = f"layers.{i}", heads * repeat * dim, heads * dim
        for norm in ("norm1", "norm2"):
            b.add(f"{path}.{norm}.weight", (width,), "x", kind="norm", positive=True)
            b.add(f"{path}.{norm}.bias", (width,), "x", kind="norm")
        b.linear(f"{path}.attn.q", queries, width, (f"h{i}", 1, repeat * dim), "x")
        b.linear(f"{path}.attn.k", keys, width, (f"h{i}", 1, dim), "x")
        b.linear(f"{path}.attn.v", keys, width, (f"h{i}", 1, dim), "x")
        b.linear(f"{path}.attn.o", width, queries, "x", (f"h{i}", 1, repeat * dim))
        b.linear(f"{path}.mlp.up", inner, width, f"f{i}", "x")
        b.linear(f"{path}.mlp.down", width, inner, "x", f"f{i}")

        def part(name, axis, stop, path=path):
            return Slice(f"{path}.attn.{name}", axis, 0, stop)

        b.products.append(
            Product(
                part("v.weight", 0, keys), part("o.weight", 1, queries), heads, dim, repeat, part("v.bias", 0, keys)
            )
        )
        if qk:
            b.products.append(
                Product(
                    part("k.weight", 0, keys),
                    part("q.weight", 0, queries),
                    heads,
                    dim,
                    repeat,
                    part("k.bias", 0, keys),
                    part("q.bias", 0, queries),
                )
            )
    b.linear("head", vocabulary, width, "logits", "x")
    return b.build()


def fused(seed=0, heads=2, dim=4):
    """One block with a fused qkv projection and both products."""
    width = heads * dim
    b = Builder(seed, image=fixed(3), x=hidden(width), h=hidden(heads), f=hidden(12), classes=fixed(5, "output"))
    b.add("patch.weight", (width, 3, 4, 4), "x", "image", None, None, kind="conv")
    b.add("patch.bias", (width,), "x", kind="conv")
    b.add("pos", (1, 6, width), None, None, "x", kind="parameter")
    b.add("blocks.0.norm.weight", (width,), "x", kind="norm", positive=True)
    b.linear("blocks.0.attn.qkv", 3 * width, width, ("h", 3, dim), "x")
    b.linear("blocks.0.attn.proj", width, width, "x", ("h", 1, dim))
    b.linear("blocks.0.mlp.fc1", 12, width, "f", "x")
    b.linear("blocks.0.mlp.fc2", width, 12, "x", "f")
    b.linear("head", 5, width, "classes", "x")

    def third(name, i):
        return Slice(f"blocks.0.attn.qkv.{name}", 0, i * width, (i + 1) * width)

    out = Slice("blocks.0.attn.proj.weight", 1, 0, width)
    b.products += [
        Product(third("weight", 2), out, heads, dim, 1, third("bias", 2)),
        Product(third("weight", 1), third("weight", 0), heads, dim, 1, third("bias", 1), third("bias", 0)),
    ]
    return b.build()


def flax_attention(seed=0, heads=2, dim=3):
    """Heads and their dimensions on axes of their own; the products go over both."""
    width = 8
    b = Builder(seed, pixels=fixed(6), x=hidden(width), h=hidden(heads), classes=fixed(4, "output"))
    b.add("params/embed/kernel", (6, width), "pixels", "x")
    for name in ("key", "query", "value"):
        b.add(f"params/attention/{name}/kernel", (width, heads, dim), "x", "h", None)
        b.add(f"params/attention/{name}/bias", (heads, dim), "h", None)
    b.add("params/attention/out/kernel", (heads, dim, width), "h", None, "x")
    b.add("params/attention/out/bias", (width,), "x")
    b.add("params/head/kernel", (width, 4), "x", "classes")

    def part(name, field, axis):
        return Slice(f"params/attention/{name}/{field}", axis, 0, heads * dim)

    b.products += [
        Product(part("value", "kernel", 1), part("out", "kernel", 0), heads, dim, 1, part("value", "bias", 0)),
        Product(
            part("key", "kernel", 1),
            part("query", "kernel", 1),
            heads,
            dim,
            1,
            part("key", "bias", 0),
            part("query", "bias", 0),
        ),
    ]
    return b.build()


def lora(seed=0, rank=2):
    """A pair without its base; `x` and `y` belong to a network that is not there."""
    b = Builder(seed, x=fixed(10), y=fixed(8, "output"), r=Neurons(rank, "hidden", False))
    b.add("q.lora_A.weight", (rank, 10), None, "x")
    b.add("q.lora_B.weight", (8, rank), "y", None)
    b.products.append(
        Product(Slice("q.lora_A.weight", 0, 0, rank), Slice("q.lora_B.weight", 1, 0, rank), heads=1, dim=rank)
    )
    return b.build()


def convolutional(seed=0):
    """Convolutions with folded norms, ReLU scales, a depthwise one, a concatenation, a flatten."""
    b = Builder(
        seed,
        rgb=fixed(3),
        a=hidden(6, "positive"),
        d=hidden(6),
        e=hidden(4, "positive"),
        f=hidden(9, "positive"),
        classes=fixed(5, "output"),
    )
    b.add("0.weight", (6, 3, 3, 3), "a", "rgb", None, None, kind="conv")
    b.add("0.bias", (6,), "a", kind="conv")
    for field in ("weight", "bias", "running_mean", "running_var"):
        power = 1 if field in ("weight", "bias") else 0
        b.add(f"1.{field}", (6,), ("a", 1, 1, power), kind="batch norm", positive=field != "bias")
    b.add("2.weight", (6, 6, 1, 1), "d", ("a", 1, 1, -1), None, None, kind="conv")
    b.add("3.weight", (6, 1, 3, 3), "d", None, None, None, kind="conv")
    b.add("4.weight", (4, 6, 3, 3), ("e", 1, 1, 1), "d", None, None, kind="conv")
    b.add("4.bias", (4,), ("e", 1, 1, 1), kind="conv")
    b.linear("5", 9, 4 * 9 + 6, ("f", 1, 1, 1), [("e", 1, 9, -1), ("d", 1, 1, 0)])
    b.linear("6", 5, 9, "classes", ("f", 1, 1, -1))
    return b.build()


def odd(seed=0):
    """Perceptron with free signs."""
    b = Builder(seed, x=fixed(7), a=hidden(6, "sign"), c=hidden(5, "sign"), y=fixed(3, "output"))
    b.linear("1", 6, 7, ("a", 1, 1, 1), "x")
    b.linear("2", 5, 6, ("c", 1, 1, 1), ("a", 1, 1, -1))
    b.linear("3", 3, 5, "y", ("c", 1, 1, -1))
    return b.build()


def recurrent(seed=0, size=5):
    """An LSTM: four gates beside each other."""
    b = Builder(seed, x=fixed(4), h=hidden(size), y=fixed(3, "output"))
    gates = ("h", 4, 1)
    b.add("lstm.weight_ih_l0", (4 * size, 4), gates, "x", kind="recurrent")
    b.add("lstm.weight_hh_l0", (4 * size, size), gates, "h", kind="recurrent")
    b.add("lstm.bias_ih_l0", (4 * size,), gates, kind="recurrent")
    b.add("lstm.bias_hh_l0", (4 * size,), gates, kind="recurrent")
    b.linear("out", 3, size, "y", "h")
    return b.build()


def experts(seed=0):
    """Experts and their hidden units on axes of one tensor."""
    b = Builder(seed, x=fixed(6), e=hidden(3), f=hidden(7), y=fixed(4, "output"))
    b.linear("router", 3, 6, "e", "x")
    b.add("experts.up", (3, 7, 6), "e", "f", "x", kind="parameter")
    b.add("experts.down", (3, 4, 7), "e", "y", "f", kind="parameter")
    return b.build()


NETWORKS = {
    "transformer": transformer,
    "grouped queries": lambda seed=0: transformer(seed, repeat=2),
    "rotary": lambda seed=0: transformer(seed, repeat=2, qk=False),
    "fused": fused,
    "flax attention": flax_attention,
    "LoRA": lora,
    "convolutional": convolutional,
    "odd": odd,
    "recurrent": recurrent,
    "experts": experts,
}


def permute(checkpoint, claim, seed):
    """Permutes the units of all permutable groups."""
    return _with(checkpoint, permuted(_float64(checkpoint), claim, seed))


def rescale(checkpoint, claim, seed, largest=64.0):
    """Multiplies units by positive factors, log-uniform in [1 / largest, largest], or by signs, as is claimed."""
    return _with(checkpoint, rescaled(_float64(checkpoint), claim, seed, largest=largest))


def mix_products(checkpoint, claim, seed, largest=64.0):
    """Applies a random member of GL(dim) to every head of every product."""
    return _with(checkpoint, mixed(_float64(checkpoint), claim, seed, largest=largest))


def _float64(checkpoint):
    return {name: np.asarray(t, np.float64) for name, t in checkpoint.tensors.items()}


def _with(checkpoint, tensors):
    return replace(checkpoint, tensors={n: np.ascontiguousarray(t, np.float32) for n, t in tensors.items()})


def rescale_norm(checkpoint, weight, bias, norm, seed, largest=64.0):
    """Scales weights before a batch norm, and its statistics alike."""
    tensors = _float64(checkpoint)
    factor = np.exp(np.random.default_rng(seed).uniform(-np.log(largest), np.log(largest), len(tensors[weight])))
    tensors[weight] = tensors[weight] * factor.reshape(-1, *[1] * (tensors[weight].ndim - 1))
    tensors[bias] = tensors[bias] * factor
    tensors[f"{norm}.running_mean"] = tensors[f"{norm}.running_mean"] * factor
    variance = (tensors[f"{norm}.running_var"] + 1e-5) * factor**2 - 1e-5
    assert (variance > 0).all()
    tensors[f"{norm}.running_var"] = variance
    return _with(checkpoint, tensors)
