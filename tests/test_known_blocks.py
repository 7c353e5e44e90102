"""Blocks whose course is known: permuting what is claimed leaves the outputs of small networks as they were."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

IMAGE = np.random.default_rng(1).standard_normal((3, 8, 8))


class Net:
    """Tensors that are made when a network first asks for them, and the layers that read them; maps are [c, h, w]."""

    def __init__(self, tensors=None):
        self.tensors = {} if tensors is None else tensors
        self._rng = np.random.default_rng(0)

    def get(self, name, *shape, positive=False):
        if name not in self.tensors:
            values = self._rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
            self.tensors[name] = np.abs(values) + 0.5 if positive else values
        return self.tensors[name]

    def conv(self, name, x, out, k=1, groups=1):
        w = self.get(f"{name}.weight", out, len(x) // groups, k, k)
        r = k // 2
        padded = np.pad(x, ((0, 0), (r, r), (r, r))).reshape(groups, -1, x.shape[1] + 2 * r, x.shape[2] + 2 * r)
        w = w.reshape(groups, out // groups, -1, k, k)
        taps = [(i, j) for i in range(k) for j in range(k)]
        found = sum(
            np.einsum("gchw,goc->gohw", padded[:, :, i : i + x.shape[1], j : j + x.shape[2]], w[..., i, j])
            for i, j in taps
        )
        return found.reshape(out, *x.shape[1:])

    def norm(self, name, x):
        gain, shift, mean = (self.get(f"{name}.{field}", len(x)) for field in ("weight", "bias", "running_mean"))
        scale = gain / np.sqrt(self.get(f"{name}.running_var", len(x), positive=True))
        return (x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]

    def layer_norm(self, name, x):
        gain, shift = (
            self.get(f"{name}.{field}", len(x)).reshape(-1, *[1] * (x.ndim - 1)) for field in ("weight", "bias")
        )
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * gain + shift

    def unit(self, name, x, out, k=1, groups=1, names=("conv", "bn")):
        """A convolution, its norm, and a ReLU."""
        return np.maximum(self.norm(f"{name}.{names[1]}", self.conv(f"{name}.{names[0]}", x, out, k, groups)), 0)

    def gate(self, name, x, hidden=4, names=("conv_reduce", "conv_expand")):
        mean = x.mean((1, 2), keepdims=True)
        return x * sigmoid(
            self.conv(f"{name}.{names[1]}", np.maximum(self.conv(f"{name}.{names[0]}", mean, hidden), 0), len(x))
        )

    def linear(self, name, x, out):
        return np.tensordot(self.get(f"{name}.weight", out, len(x)), x, 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def attend(q, k, v):
    """Of [units, places]."""
    return v @ softmax(q.T @ k).T


def ends(block):
    """A stem, two blocks, or one that grows, and a head."""

    def run(net):
        x = net.unit("stem", IMAGE, 16, 3)
        for i in range(1 if block is dense_convolutions else 2):
            x = block(net, f"stages.{i}", x)
        return net.conv("head", x, 5)

    return run


def cross_stage(net, path, x):
    x = net.unit(f"{path}.conv_exp", net.unit(f"{path}.conv_down", x, 16, 3), 24)
    by, y = np.split(x, 2)
    for i in range(2):
        z = net.unit(f"{path}.blocks.{i}.conv1", y, 8)
        y = y + net.unit(f"{path}.blocks.{i}.conv2", net.gate(f"{path}.blocks.{i}.attn", z), 12, 3)
    y = net.unit(f"{path}.conv_transition_b", y, 12)
    return net.unit(f"{path}.conv_transition", np.concatenate([by, y]), 16)


def cross_layer(net, path, x):
    short, y = net.unit(f"{path}.short_conv", x, 8), net.unit(f"{path}.main_conv", x, 8)
    z = net.unit(f"{path}.blocks.0.conv1", y, 8, 3)
    z = net.unit(f"{path}.blocks.0.conv2.depthwise_conv", z, 8, 3, groups=8)
    y = y + net.unit(f"{path}.blocks.0.conv2.pointwise_conv", z, 8)
    return net.unit(f"{path}.final_conv", np.concatenate([y, short]), 16)


def mixed_kernels(net, path, x):
    a, b = np.split(x, 2)
    y = np.concatenate([net.conv(f"{path}.conv_pw.{i}", part, 12) for i, part in enumerate((a, b))])
    y = np.maximum(net.norm(f"{path}.bn1", y), 0)
    parts = zip(np.split(y, [8, 16]), (3, 5, 7), strict=True)
    y = np.concatenate([net.conv(f"{path}.conv_dw.{i}", part, 8, k, 8) for i, (part, k) in enumerate(parts)])
    y = net.gate(f"{path}.se", np.maximum(net.norm(f"{path}.bn2", y), 0))
    return x + net.norm(f"{path}.bn3", net.conv(f"{path}.conv_pwl", y, 16))


def ghost(net, path, x, out):
    y = net.unit(f"{path}.primary_conv", x, out // 2, names=("0", "1"))
    return np.concatenate([y, net.unit(f"{path}.cheap_operation", y, out // 2, 3, out // 2, names=("0", "1"))])


def ghost_bottleneck(net, path, x):
    return x + ghost(net, f"{path}.ghost2", net.gate(f"{path}.se", ghost(net, f"{path}.ghost1", x, 24)), 16)


def scales(net, path, x):
    parts = np.split(np.maximum(net.norm(f"{path}.bn1", net.conv(f"{path}.conv1", x, 24)), 0), 4)
    found = []
    for i in range(3):
        y = parts[i] + found[-1] if found else parts[i]
        found.append(np.maximum(net.norm(f"{path}.bns.{i}", net.conv(f"{path}.convs.{i}", y, 6, 3)), 0))
    y = np.concatenate([*found, parts[3]])
    return np.maximum(x + net.norm(f"{path}.bn3", net.conv(f"{path}.conv3", y, 16)), 0)


def branches(net, path, x):
    a = net.unit(f"{path}.branch0", x, 6)
    b = net.unit(f"{path}.branch1.1", net.unit(f"{path}.branch1.0", x, 8), 10, 3)
    return np.concatenate([a, b])


def large_kernel(net, path, x):
    y = net.norm(f"{path}.large_conv.bn", net.conv(f"{path}.large_conv.conv", x, 16, 5, 16))
    return y + net.norm(f"{path}.small_conv.bn", net.conv(f"{path}.small_conv.conv", x, 16, 3, 16))


def split_attention(net, path, x):
    y = np.maximum(net.norm(f"{path}.bn0", net.conv(f"{path}.conv", x, 32, 3, 2)), 0).reshape(2, 16, 8, 8)
    z = net.conv(f"{path}.fc1", y.sum(0).mean((1, 2), keepdims=True), 6)
    z = net.conv(f"{path}.fc2", np.maximum(net.norm(f"{path}.bn1", z), 0), 32)
    return (y * softmax(z.reshape(2, 16, 1, 1), 0)).sum(0)


def cascade(net, path, x):
    """Two heads of 8 channels."""
    found = []
    net.get(f"{path}.attention_biases", 2, 9)
    for i, part in enumerate(np.split(x, 2)):
        y = part + found[-1] if found else part
        y = net.norm(f"{path}.qkvs.{i}.bn", net.conv(f"{path}.qkvs.{i}.conv", y, 16))
        q, k, v = np.split(y, [4, 8])
        q = net.norm(f"{path}.dws.{i}.bn", net.conv(f"{path}.dws.{i}.conv", q, 4, 3, 4))
        found.append(attend(q.reshape(4, -1), k.reshape(4, -1), v.reshape(8, -1)).reshape(8, 8, 8))
    y = np.maximum(np.concatenate(found), 0)
    return x + net.norm(f"{path}.proj.1.bn", net.conv(f"{path}.proj.1.conv", y, 16))


def by_heads(net, path, x):
    """Two heads of 4 and 8 entries."""
    net.get(f"{path}.attention_biases", 2, 9)
    rows = net.norm(f"{path}.qkv.bn", net.conv(f"{path}.qkv.linear", x, 32)).reshape(2, 16, -1)
    found = np.concatenate([attend(*np.split(head, [4, 8])) for head in rows]).reshape(16, 8, 8)
    return x + net.norm(f"{path}.proj.ln.bn", net.conv(f"{path}.proj.ln.linear", np.maximum(found, 0), 16))


def part_attends(net, path, x):
    some, others = np.split(x, [8])
    y = net.conv(
        f"{path}.qkv.c", (some - some.mean()) / some.std() * net.get(f"{path}.pre_norm.weight", 8)[:, None, None], 16
    )
    q, k, v = np.split(net.norm(f"{path}.qkv.bn", y), [4, 8])
    y = attend(q.reshape(4, -1), k.reshape(4, -1), v.reshape(8, -1)).reshape(8, 8, 8)
    y = np.maximum(np.concatenate([y, others]), 0)
    return x + net.norm(f"{path}.proj.1.bn", net.conv(f"{path}.proj.1.c", y, 16))


def modulated(net, path, x):
    q, y, gates = np.split(net.conv(f"{path}.f", x, 35), [16, 32])
    total = 0
    for i in range(2):
        y = np.maximum(net.conv(f"{path}.focal_layers.{i}.0", y, 16, 3, 16), 0)
        total = total + y * gates[i]
    total = total + np.tanh(y.mean((1, 2), keepdims=True)) * gates[2]
    return x + net.conv(f"{path}.proj", q * net.conv(f"{path}.h", total, 16), 16)


def additive(net, path, x):
    x = x.reshape(16, -1)
    q, k = (net.linear(f"{path}.{name}", x, 16) for name in ("to_query", "to_key"))
    weights = net.get(f"{path}.w_g", 16, 1)[:, 0] @ q
    y = net.linear(f"{path}.proj", (q * weights).sum(1, keepdims=True) * k, 16) + q
    return (x + net.linear(f"{path}.final", y, 16)).reshape(16, 8, 8)


def halo(net, path, x):
    """Two heads of 4 and 8 entries; offsets by places are read by queries."""
    q = net.conv(f"{path}.q", x, 8).reshape(2, 4, -1)
    k, v = np.split(net.conv(f"{path}.kv", x, 24).reshape(2, 12, -1), [4], axis=1)
    table = sum(net.get(f"{path}.pos_embed.{name}_rel", 64, 4) for name in ("height", "width"))
    found = [v[h] @ softmax(q[h].T @ (k[h] + table.T)).T for h in range(2)]
    return np.concatenate(found).reshape(16, 8, 8)


def dense_convolutions(net, path, x):
    for i in range(2):
        own = f"{path}.dense_block{i}.layers.layers"
        y = net.layer_norm(f"{own}.1", net.conv(f"{own}.0", x, len(x), 7, len(x)))
        y = net.conv(f"{own}.4", np.maximum(net.conv(f"{own}.2", y, 24), 0), 6)
        x = np.concatenate([x, y * net.get(f"{path}.dense_block{i}.gamma", 6)[:, None, None]])
    return x


BLOCKS = {
    block.__name__: block
    for block in (
        *(cross_stage, cross_layer, mixed_kernels, ghost_bottleneck, scales, branches, large_kernel),
        *(split_attention, cascade, by_heads, part_attends, modulated, additive, halo, dense_convolutions),
    )
}


def dual_path(net):
    x = net.unit("features.conv1_1", IMAGE, 8, 3)

    def first_normed(path, x, out, k=1, groups=1):
        return net.conv(f"{path}.conv", np.maximum(net.norm(f"{path}.bn", x), 0), out, k, groups)

    for i in (1, 2):
        path = f"features.conv2_{i}"
        kept = first_normed(f"{path}.c1x1_w_s1", x, 20) if i == 1 else x
        y = first_normed(f"{path}.c3x3_b", first_normed(f"{path}.c1x1_a", x, 16), 16, 3, 2)
        y = first_normed(f"{path}.c1x1_c", y, 16)
        x = np.concatenate([kept[:12] + y[:12], kept[12:], y[12:]])
    return net.conv("classifier", np.maximum(net.norm("features.conv5_bn_ac.bn", x), 0), 5)


def resolutions(net):
    def block(path, x, out):
        y = np.maximum(net.norm(f"{path}.bn1", net.conv(f"{path}.conv1", x, out, 3)), 0)
        y = net.norm(f"{path}.bn2", net.conv(f"{path}.conv2", y, out, 3))
        if len(x) != out:
            x = net.norm(f"{path}.downsample.1", net.conv(f"{path}.downsample.0", x, out))
        return np.maximum(x + y, 0)

    def unit(path, x, out, k=1):
        return net.unit(path, x, out, k, names=("0", "1"))

    x = IMAGE
    for i in "12":
        x = np.maximum(net.norm(f"bn{i}", net.conv(f"conv{i}", x, 8, 3)), 0)
    x = block("layer1.0", x, 8)
    maps = [unit("transition1.0", x, 6, 3), unit("transition1.1.0", x, 12, 3)]
    maps = [block(f"stage2.0.branches.{i}.0", y, len(y)) for i, y in enumerate(maps)]
    fine = maps[0] + net.norm("stage2.0.fuse_layers.0.1.1", net.conv("stage2.0.fuse_layers.0.1.0", maps[1], 6))
    coarse = maps[1] + net.norm(
        "stage2.0.fuse_layers.1.0.0.1", net.conv("stage2.0.fuse_layers.1.0.0.0", maps[0], 12, 3)
    )
    fine, coarse = (block(f"incre_modules.{i}.0", y, n) for i, (y, n) in enumerate(((fine, 10), (coarse, 20))))
    x = unit("final_layer", coarse + unit("downsamp_modules.0", fine, 20, 3), 24)
    return net.linear("classifier", x.mean((1, 2)), 5)


def over_stages(net):
    """A head that joins maps of three stages (Xie et al., SegFormer, 2021)."""
    x, maps = IMAGE, []
    for i, width in enumerate((8, 12, 16)):
        x = np.maximum(net.conv(f"encoder.{i}.conv", x, width, 3), 0)
        maps.append(x)
    found = [net.linear(f"decode_head.linear_c.{i}.proj", y, 10) for i, y in enumerate(maps)]
    y = net.conv("decode_head.linear_fuse", np.concatenate(found[::-1]), 10)
    return net.conv("decode_head.classifier", net.norm("decode_head.norm", y), 5)


NETWORKS = {name: ends(block) for name, block in BLOCKS.items()} | {
    network.__name__: network for network in (dual_path, resolutions, over_stages)
}


@pytest.mark.parametrize("name", NETWORKS)
def test_permuting_what_is_claimed_changes_nothing(name):
    net = Net()
    expected = NETWORKS[name](net)
    claim = infer_wiring(Checkpoint("f", net.tensors, {}))
    other = permuted(net.tensors, claim, 1)
    np.testing.assert_allclose(NETWORKS[name](Net(other)), expected, rtol=1e-7, atol=1e-7)
    assert not claim.warnings
    assert claim.coverage["graph"] > 0.95
    assert any(not np.array_equal(other[key], net.tensors[key]) for key in net.tensors)
