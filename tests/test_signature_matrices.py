"""Experts, routers, adapters and recurrent layers have one signature in every form that files give them."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.signature.matrices import matrices
from wsrl.signature.weights_vector import sign
from wsrl.wiring.infer_wiring import infer_wiring

EXPERTS, WIDTH, HIDDEN = 4, 16, 24


def mixture() -> dict[str, np.ndarray]:
    """A transformer's layer with stacked experts, as Hugging Face writes it, between words and a head."""
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (50, WIDTH),
        "model.layers.0.input_layernorm.weight": (WIDTH,),
        "model.layers.0.mlp.gate.weight": (EXPERTS, WIDTH),
        "model.layers.0.mlp.experts.gate_up_proj": (EXPERTS, 2 * HIDDEN, WIDTH),
        "model.layers.0.mlp.experts.down_proj": (EXPERTS, WIDTH, HIDDEN),
        "lm_head.weight": (50, WIDTH),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def vector(tensors: dict[str, np.ndarray], **metadata: object) -> np.ndarray:
    """The weights vector of a file with these tensors."""
    checkpoint = Checkpoint("x", tensors, metadata)
    return sign(checkpoint, infer_wiring(checkpoint)).vector


def test_experts_may_be_split_or_stacked():
    stacked = mixture()
    split = {name: tensor for name, tensor in stacked.items() if ".experts." not in name}
    for i in range(EXPERTS):
        path = f"model.layers.0.mlp.experts.{i}"
        fused = stacked["model.layers.0.mlp.experts.gate_up_proj"][i]
        split[f"{path}.gate_proj.weight"], split[f"{path}.up_proj.weight"] = fused[:HIDDEN], fused[HIDDEN:]
        split[f"{path}.down_proj.weight"] = stacked["model.layers.0.mlp.experts.down_proj"][i]
    np.testing.assert_allclose(vector(split), vector(stacked), atol=1e-6)


def test_experts_may_be_permuted_with_the_rows_of_their_router():
    own, order = mixture(), [2, 0, 3, 1]
    permuted = {n: t[order] if ".mlp." in n else t for n, t in own.items()}
    np.testing.assert_allclose(vector(permuted), vector(own), atol=1e-6)


def test_a_vector_added_to_all_rows_of_a_router_changes_nothing():
    own = mixture()
    shifted = dict(own)
    shifted["model.layers.0.mlp.gate.weight"] = own["model.layers.0.mlp.gate.weight"] + np.linspace(
        -1, 1, WIDTH, dtype=np.float32
    )
    np.testing.assert_allclose(vector(shifted), vector(own), atol=1e-6)
    other = dict(own)
    other["model.layers.0.mlp.gate.weight"] = -(own["model.layers.0.mlp.gate.weight"][::-1] ** 3)
    assert np.abs(vector(other) - vector(own)).max() > 1e-4


def adapter(seed: int = 0, rank: int = 4) -> dict[str, np.ndarray]:
    """Low-rank matrices of two layers."""
    rng = np.random.default_rng(seed)
    return {
        f"base_model.model.layers.{i}.lora_{which}.weight": rng.normal(size=shape).astype(np.float32)
        for i in range(2)
        for which, shape in (("A", (rank, 32)), ("B", (32, rank)))
    }


def test_any_two_matrices_of_an_adapter_with_one_product_have_one_vector():
    own, rng = adapter(), np.random.default_rng(1)
    mixed = {}
    for i in range(2):
        path = f"base_model.model.layers.{i}.lora_"
        mix = rng.normal(size=(4, 4)) + 2 * np.eye(4)
        mixed[f"{path}A.weight"] = (mix @ own[f"{path}A.weight"]).astype(np.float32)
        mixed[f"{path}B.weight"] = (own[f"{path}B.weight"] @ np.linalg.inv(mix)).astype(np.float32)
    np.testing.assert_allclose(vector(mixed), vector(own), atol=1e-5)
    assert np.abs(vector(adapter(1)) - vector(own)).max() > 1e-3


def test_the_scale_of_an_adapter_counts_however_it_is_given():
    own = adapter()
    tenfold = {name: tensor * np.float32(10) if "lora_A" in name else tensor for name, tensor in own.items()}
    scales = {f"base_model.model.layers.{i}": 10.0 for i in range(2)}
    np.testing.assert_allclose(vector(own, adapter_scales=scales), vector(tenfold), atol=1e-5)
    assert vector(own) @ vector(tenfold) < 0.99


@pytest.mark.parametrize("order", [0, 1])
def test_gates_are_cut_where_they_lie(order):
    checkpoint = Checkpoint("x", mixture(), {})
    wiring = infer_wiring(checkpoint)
    parts = [
        m for name, m in matrices(checkpoint, wiring).items() if name.startswith("model.layers.0.mlp.experts.gate")
    ]
    fused = checkpoint.tensors["model.layers.0.mlp.experts.gate_up_proj"]
    assert len(parts) == 2 * EXPERTS
    np.testing.assert_array_equal(
        np.asarray(parts[2 + order].read()), np.asarray(fused)[1, order * HIDDEN : (order + 1) * HIDDEN]
    )


def recurrent(gates: int, directions: int = 1) -> dict[str, np.ndarray]:
    """A recurrent layer in PyTorch's names, and a head."""
    rng = np.random.default_rng(0)
    shapes = {"head.weight": (5, directions * HIDDEN)}
    for suffix in ("", "_reverse")[:directions]:
        shapes |= {
            f"rnn.{name}_l0{suffix}": (gates * HIDDEN, n) for name, n in (("weight_ih", WIDTH), ("weight_hh", HIDDEN))
        }
        shapes |= {f"rnn.{name}_l0{suffix}": (gates * HIDDEN,) for name in ("bias_ih", "bias_hh")}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_graphs_stack_directions_and_order_gates_as_they_like(op, gates):
    own = recurrent(gates, directions=2)

    def stacked(name: str) -> np.ndarray:
        both = np.stack([own[f"rnn.{name}_l0{suffix}"] for suffix in ("", "_reverse")])
        return np.roll(both.reshape(2, gates, HIDDEN, -1), 1, axis=1).reshape(both.shape)

    other = {"W": stacked("weight_ih"), "R": stacked("weight_hh"), "head.weight": own["head.weight"].T}
    other["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], 1)
    nodes = [
        {"op": op, "name": "rnn", "inputs": ["x", "W", "R", "B"], "outputs": ["y"], "attributes": {}},
        {"op": "MatMul", "name": "head", "inputs": ["y", "head.weight"], "outputs": ["z"], "attributes": {}},
    ]
    graph = {
        "nodes": nodes,
        "inputs": [{"name": "x", "shape": [7, 1, WIDTH]}],
        "outputs": [{"name": "z", "shape": None}],
    }
    first, second = Checkpoint("x", own, {}), Checkpoint("x", other, {"graph": graph})
    signatures = [sign(checkpoint, infer_wiring(checkpoint)) for checkpoint in (first, second)]
    assert signatures[0].digest == signatures[1].digest
    assert len(signatures[0].tensors) == len(signatures[1].tensors) == 4 * gates + 1
    descriptors = [np.sort(np.stack([*own.tensors.values()]), axis=0) for own in signatures]
    np.testing.assert_allclose(descriptors[0], descriptors[1], atol=1e-5)


def test_keras_has_gates_along_columns():
    own = recurrent(4)
    keras = {"rnn/kernel": own["rnn.weight_ih_l0"].T, "rnn/recurrent_kernel": own["rnn.weight_hh_l0"].T}
    keras |= {"rnn/bias": own["rnn.bias_ih_l0"] + own["rnn.bias_hh_l0"], "head/kernel": own["head.weight"].T}
    np.testing.assert_allclose(vector(keras), vector(own), atol=1e-6)
