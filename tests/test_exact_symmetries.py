"""Symmetries that no permutation and no claim of a group shows: outputs and the weights vector stay as they are."""

import numpy as np
import pytest
from doubtful_networks import cells, lstm, relu, sigmoid

from wsrl.checkpoint import Checkpoint
from wsrl.signature.weights_vector import sign
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

WIDTH, HEADS, DIM, HIDDEN, WORDS, TIMES = 16, 2, 8, 24, 11, 5
CONFIG = {"model_type": "llama", "num_attention_heads": HEADS, "hidden_size": WIDTH}
LAYER = "model.layers.0"
Tensors = dict[str, np.ndarray]


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) / np.sqrt(shape[-1]) for name, shape in shapes.items()}


def vector(tensors: Tensors, **metadata: object) -> np.ndarray:
    checkpoint = Checkpoint("x", {name: t.astype(np.float32) for name, t in tensors.items()}, metadata)
    return sign(checkpoint, infer_wiring(checkpoint)).vector


def decoder() -> Tensors:
    """A decoder layer with norms of root mean squares, rotary positions and a gated unit, between two tables."""
    shapes = {"model.embed_tokens.weight": (WORDS, WIDTH), "lm_head.weight": (WORDS, WIDTH)}
    shapes |= {f"{LAYER}.self_attn.{part}_proj.weight": (HEADS * DIM, WIDTH) for part in "qkv"}
    shapes[f"{LAYER}.self_attn.o_proj.weight"] = (WIDTH, HEADS * DIM)
    shapes |= {f"{LAYER}.mlp.{part}_proj.weight": (HIDDEN, WIDTH) for part in ("gate", "up")}
    shapes[f"{LAYER}.mlp.down_proj.weight"] = (WIDTH, HIDDEN)
    norms = (f"{LAYER}.input_layernorm", f"{LAYER}.post_attention_layernorm", "model.norm")
    return random_tensors(shapes) | {f"{name}.weight": np.linspace(0.5, 2, WIDTH) for name in norms}


def run_decoder(t: Tensors) -> np.ndarray:
    """Logits for some words, float64."""

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * t[f"{name}.weight"]

    def heads(x, part):
        rows = x @ t[f"{LAYER}.self_attn.{part}_proj.weight"].T
        return rows.reshape(TIMES, HEADS, DIM).transpose(1, 0, 2)

    def turned(x):
        angles = np.arange(TIMES)[:, None] / 10.0 ** np.arange(DIM // 2)
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)

    x = t["model.embed_tokens.weight"][np.arange(TIMES) * 2 % WORDS]
    y = norm(x, f"{LAYER}.input_layernorm")
    scores = np.exp(turned(heads(y, "q")) @ turned(heads(y, "k")).transpose(0, 2, 1))
    mixed = (scores / scores.sum(-1, keepdims=True) @ heads(y, "v")).transpose(1, 0, 2).reshape(TIMES, -1)
    x = x + mixed @ t[f"{LAYER}.self_attn.o_proj.weight"].T
    y = norm(x, f"{LAYER}.post_attention_layernorm")
    gate, up = (y @ t[f"{LAYER}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
    x = x + (gate * sigmoid(gate) * up) @ t[f"{LAYER}.mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ t["lm_head.weight"].T


def scaled_gated_units(t: Tensors) -> Tensors:
    """What a gate multiplies may be scaled by any number but 0, unit by unit."""
    factors = np.linspace(0.3, 3, HIDDEN) * (-1) ** np.arange(HIDDEN)
    up, down = f"{LAYER}.mlp.up_proj.weight", f"{LAYER}.mlp.down_proj.weight"
    return t | {up: t[up] * factors[:, None], down: t[down] / factors}


def folded_norms(t: Tensors) -> Tensors:
    """The gain of a norm may stand in what reads it."""
    readers = {
        f"{LAYER}.input_layernorm": [f"{LAYER}.self_attn.{part}_proj" for part in "qkv"],
        f"{LAYER}.post_attention_layernorm": [f"{LAYER}.mlp.{part}_proj" for part in ("gate", "up")],
        "model.norm": ["lm_head"],
    }
    changed = dict(t)
    for norm, layers in readers.items():
        changed[f"{norm}.weight"] = np.ones(WIDTH)
        changed |= {f"{name}.weight": t[f"{name}.weight"] * t[f"{norm}.weight"] for name in layers}
    return changed


def scaled_rotary_pairs(t: Tensors) -> Tensors:
    """Both entries of a pair that rotary positions turn may be scaled alike in queries, and inversely in keys."""
    factors = np.tile(np.linspace(0.3, 3, HEADS * DIM // 2).reshape(HEADS, 1, -1), (1, 2, 1)).reshape(-1, 1)
    q, k = (f"{LAYER}.self_attn.{part}_proj.weight" for part in "qk")
    return t | {q: t[q] * factors, k: t[k] / factors}


@pytest.mark.parametrize("change", [scaled_gated_units, folded_norms, scaled_rotary_pairs])
def test_decoders(change):
    own = decoder()
    changed = change(own)
    np.testing.assert_allclose(run_decoder(changed), run_decoder(own), rtol=1e-10, atol=1e-12)
    assert max(np.abs(changed[name] - own[name]).max() for name in own) > 0.1
    np.testing.assert_allclose(vector(changed, config=CONFIG), vector(own, config=CONFIG), atol=1e-5)


def gru(t: Tensors, inputs: np.ndarray) -> np.ndarray:
    """Outputs of PyTorch's GRU without biases, [times, hidden]."""
    h, outputs = np.zeros(t["rnn.weight_hh_l0"].shape[1]), []
    for x in inputs:
        (r, z, n), (hr, hz, hn) = (np.split(t[f"rnn.weight_{s}_l0"] @ v, 3) for s, v in (("ih", x), ("hh", h)))
        z = sigmoid(z + hz)
        h = (1 - z) * np.tanh(n + sigmoid(r + hr) * hn) + z * h
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("gates", [3, 4], ids=["GRU", "LSTM"])
def test_signs_of_recurrent_units(gates):
    """A unit's candidate, its state and all that reads it change their signs; its gates read the same as before."""
    shapes = {name: (n // 4 * gates, m) for name, (n, m) in cells("rnn", 6, 12).items()} | {"head.weight": (5, 12)}
    own, inputs = random_tensors(shapes), np.random.default_rng(1).standard_normal((TIMES, 6))
    signs = (-1.0) ** np.arange(12)
    rows = np.concatenate([signs if gate == 2 else np.ones(12) for gate in range(gates)])[:, None]  # the candidate
    changed = {"rnn.weight_ih_l0": own["rnn.weight_ih_l0"] * rows, "head.weight": own["head.weight"] * signs}
    changed["rnn.weight_hh_l0"] = own["rnn.weight_hh_l0"] * rows * signs

    def outputs(t):
        return (gru(t, inputs) if gates == 3 else lstm(t, "rnn", inputs)[0]) @ t["head.weight"].T

    np.testing.assert_allclose(outputs(changed), outputs(own), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(vector(changed), vector(own), atol=1e-5)


def group_normed(t: Tensors, groups: int = 32) -> np.ndarray:
    """A convolution over single places, a group norm, ReLU, and a mean over places that a dense layer reads."""
    maps = t["0.weight"][:, :, 0, 0] @ np.random.default_rng(1).standard_normal((3, 10))
    parts = maps.reshape(groups, -1)
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-5)
    return t["4.weight"] @ relu(parts.reshape(maps.shape) * t["1.weight"][:, None] + t["1.bias"][:, None]).mean(1)


def test_units_of_a_group_norm_and_its_groups_may_be_exchanged():
    own = random_tensors({"0.weight": (64, 3, 1, 1), "1.weight": (64,), "1.bias": (64,), "4.weight": (5, 64)})
    rng = np.random.default_rng(3)
    order = np.concatenate([rng.permutation(2) + 2 * group for group in rng.permutation(32)])
    changed = {name: t[:, order] if name == "4.weight" else t[order] for name, t in own.items()}
    np.testing.assert_allclose(group_normed(changed), group_normed(own), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(vector(changed), vector(own), atol=1e-5)
    claimed = permuted(own, infer_wiring(Checkpoint("x", own, {})), 1)
    np.testing.assert_allclose(group_normed(claimed), group_normed(own), rtol=1e-10, atol=1e-12)
