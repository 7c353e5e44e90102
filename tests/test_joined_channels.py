"""Channels that are joined, cut and skipped in orders that names and shapes do not tell: permuting what is claimed
leaves the outputs of small networks as they were."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

X = np.random.default_rng(1).standard_normal((3, 8, 8))


def conv(x, t, name):
    """A convolution [out, in, k, k] of maps [in, h, w], or of each map alone where it is depthwise, and ReLU."""
    w = t[f"{name}.weight"]
    r = w.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (r, r), (r, r)))
    taps = [(i, j) for i in range(w.shape[2]) for j in range(w.shape[3])]
    maps = [padded[:, i : i + x.shape[1], j : j + x.shape[2]] for i, j in taps]
    form = "chw,c->chw" if w.shape[1] == 1 else "chw,oc->ohw"
    kernels = [w[:, 0, i, j] if w.shape[1] == 1 else w[:, :, i, j] for i, j in taps]
    return np.maximum(sum(np.einsum(form, m, k) for m, k in zip(maps, kernels, strict=True)), 0)


def shapes(**convolutions):
    return {f"{name.replace('__', '.')}.weight": shape for name, shape in convolutions.items()}


def up(x, w):
    """A transposed convolution [in, out, 2, 2] of stride 2."""
    c, (h, v) = w.shape[1], x.shape[1:]
    return np.einsum("chw,coij->ohiwj", x, w).reshape(c, 2 * h, 2 * v)


def down(x):
    return x[:, ::2, ::2]


UNET = shapes(enc1=(8, 3, 3, 3), enc2=(16, 8, 3, 3), enc3=(32, 16, 3, 3), upconv2=(32, 16, 2, 2), dec2=(16, 32, 3, 3))
UNET |= shapes(upconv1=(16, 8, 2, 2), dec1=(8, 16, 3, 3), final=(2, 8, 1, 1))


def unet(t):
    a = conv(X, t, "enc1")
    b = conv(down(a), t, "enc2")
    c = conv(down(b), t, "enc3")
    d = conv(np.concatenate([up(c, t["upconv2.weight"]), b]), t, "dec2")
    return conv(conv(np.concatenate([up(d, t["upconv1.weight"]), a]), t, "dec1"), t, "final")


DENSE = shapes(conv1=(12, 3, 3, 3), conv2=(8, 12, 3, 3), conv3=(6, 20, 3, 3), conv4=(5, 26, 1, 1))


def dense(t):
    a = conv(X, t, "conv1")
    b = conv(a, t, "conv2")
    c = conv(np.concatenate([a, b]), t, "conv3")
    return conv(np.concatenate([c, a, b]), t, "conv4")


PARTIAL = shapes(stem=(32, 3, 3, 3), head=(5, 32, 1, 1))
SPLIT = dict(PARTIAL)
for i in range(2):
    PARTIAL |= shapes(**{f"blocks__{i}__mix__part": (8, 8, 3, 3), f"blocks__{i}__mlp__fc1": (24, 32, 1, 1)})
    PARTIAL |= shapes(**{f"blocks__{i}__mlp__fc2": (32, 24, 1, 1)})
    SPLIT |= shapes(**{f"blocks__{i}__conv1": (24, 32, 1, 1), f"blocks__{i}__conv3": (32, 24, 1, 1)})
    SPLIT |= shapes(**{f"blocks__{i}__convs__{j}": (8, 8, 3, 3) for j in range(2)})


def partial(t):
    x = conv(X, t, "stem")
    for i in range(2):
        y = np.concatenate([conv(x[:8], t, f"blocks.{i}.mix.part"), x[8:]])
        x = x + conv(conv(y, t, f"blocks.{i}.mlp.fc1"), t, f"blocks.{i}.mlp.fc2")
    return conv(x, t, "head")


def split(t):
    x = conv(X, t, "stem")
    for i in range(2):
        a, b, c = np.split(conv(x, t, f"blocks.{i}.conv1"), 3)
        b = conv(b, t, f"blocks.{i}.convs.0")
        c = conv(b + c, t, f"blocks.{i}.convs.1")
        x = x + conv(np.concatenate([a, b, c]), t, f"blocks.{i}.conv3")
    return conv(x, t, "head")


SHUFFLED = shapes(stem=(16, 3, 3, 3), head=(5, 16, 1, 1))
for i in range(2):
    SHUFFLED |= shapes(**{f"blocks__{i}__pw": (8, 16, 1, 1), f"blocks__{i}__dw": (8, 1, 3, 3)})


def shuffled(t):
    x = conv(X, t, "stem")
    for i in range(2):
        a = conv(x, t, f"blocks.{i}.pw")
        x = np.stack([a, conv(a, t, f"blocks.{i}.dw")], axis=1).reshape(x.shape)
    return conv(x, t, "head")


NETWORKS = {"unet": (UNET, unet), "dense": (DENSE, dense), "partial": (PARTIAL, partial), "split": (SPLIT, split)}


@pytest.mark.parametrize("name", [*NETWORKS, "shuffled"])
def test_permuting_what_is_claimed_changes_nothing(name):
    layout, run = (NETWORKS | {"shuffled": (SHUFFLED, shuffled)})[name]
    rng = np.random.default_rng(0)
    tensors = {key: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for key, shape in layout.items()}
    claim = infer_wiring(Checkpoint("f", tensors, {}))
    other = permuted(tensors, claim, 1)
    np.testing.assert_allclose(run(other), run(tensors), rtol=1e-9, atol=1e-9)
    if name in NETWORKS:
        assert claim.coverage["graph"] > 0.9
        assert any(not np.array_equal(other[key], tensors[key]) for key in tensors)


def test_one_score_beside_keys_and_values():
    layout = {"stem.weight": (8, 3, 4, 4), "head.weight": (5, 8)}
    for i in range(2):
        path = f"blocks.{i}"
        layout |= {f"{path}.norm1.weight": (8,), f"{path}.norm1.bias": (8,), f"{path}.conv.weight": (8, 8, 3, 3)}
        layout |= {f"{path}.attn.qkv_proj.weight": (17, 8, 1, 1), f"{path}.attn.qkv_proj.bias": (17,)}
        layout |= {f"{path}.attn.out_proj.weight": (8, 8, 1, 1), f"{path}.attn.out_proj.bias": (8,)}
    claim = infer_wiring(Checkpoint("f", {key: np.zeros(shape) for key, shape in layout.items()}, {}))
    score, key, value = claim.axes["blocks.0.attn.qkv_proj.weight"][0]
    assert (score.size, score.group) == (1, None)
    assert key.group == value.group == claim.axes["blocks.0.attn.out_proj.weight"][1][0].group
    assert claim.groups[key.group].permutable
