"""Attention has one weights vector in all of its equivalent forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.checkpoint import Checkpoint
from wsrl.signature.weights_vector import sign
from wsrl.wiring.infer_wiring import infer_wiring

WIDTH, HEADS, DIM = 32, 4, 8
CONFIG = {"model_type": "llama", "num_attention_heads": HEADS, "hidden_size": WIDTH}
LAYERS = 2
Tensors = dict[str, np.ndarray]


def decoder(shared: int = HEADS) -> Tensors:
    """A decoder with rotary positions, in the names of Hugging Face; `shared` heads of keys and values."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (50, WIDTH), "model.norm.weight": (WIDTH,), "lm_head.weight": (50, WIDTH)}
    for i in range(LAYERS):
        rows = {"q": HEADS * DIM, "k": shared * DIM, "v": shared * DIM}
        shapes |= {f"{layer(i)}.{part}_proj.weight": (n, WIDTH) for part, n in rows.items()}
        shapes[f"{layer(i)}.o_proj.weight"] = (WIDTH, HEADS * DIM)
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (WIDTH,)
        shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (48, WIDTH)
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (WIDTH, 48)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def layer(i: int) -> str:
    """The path of an attention layer."""
    return f"model.layers.{i}.self_attn"


def bert() -> Tensors:
    """An encoder with learned positions, in the names of Hugging Face."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (50, WIDTH),
        "embeddings.position_embeddings.weight": (16, WIDTH),
    }
    for i in range(LAYERS):
        path = f"encoder.layer.{i}"
        for module, shape in {
            **{f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")},
            **{"attention.output.dense": (WIDTH, WIDTH), "output.dense": (WIDTH, 48)},
            "intermediate.dense": (48, WIDTH),
        }.items():
            shapes |= {f"{path}.{module}.weight": shape, f"{path}.{module}.bias": shape[:1]}
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{path}.{norm}.weight": (WIDTH,), f"{path}.{norm}.bias": (WIDTH,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def vector(tensors: Tensors, config: dict | None = None) -> np.ndarray:
    """The weights vector of a file with these tensors."""
    checkpoint = Checkpoint("x", tensors, {"config": config} if config else {})
    return sign(checkpoint, infer_wiring(checkpoint)).vector


def by_head(matrices: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Multiplies the rows of each head [heads * dim, columns] by a matrix of its own [heads, dim, dim]."""
    heads, dim, _ = matrices.shape
    return (matrices @ rows.reshape(heads, dim, -1)).reshape(rows.shape).astype(np.float32)


def invertible(rng: np.random.Generator, heads: int) -> np.ndarray:
    """Matrices [heads, dim, dim] that are well-conditioned."""
    orthogonal = np.linalg.qr(rng.normal(size=(heads, DIM, DIM)))[0]
    return orthogonal * rng.uniform(0.5, 2, (heads, 1, DIM)) @ np.linalg.qr(rng.normal(size=(heads, DIM, DIM)))[0]


def opposite(matrices: np.ndarray) -> np.ndarray:
    """The inverse transpose of each."""
    return np.linalg.inv(matrices).transpose(0, 2, 1)


def rotations(rng: np.random.Generator, heads: int) -> np.ndarray:
    """Matrices [heads, dim, dim] that rotate and scale entry i of a head and entry i + dim / 2 as a pair."""
    angles, scales = rng.uniform(0, 6, (heads, DIM // 2)), rng.uniform(0.5, 2, (heads, DIM // 2))
    cos, sin = scales * np.cos(angles), scales * np.sin(angles)
    diagonal = np.eye(DIM // 2)
    return np.block(
        [
            [cos[..., None] * diagonal, -sin[..., None] * diagonal],
            [sin[..., None] * diagonal, cos[..., None] * diagonal],
        ]
    )


@settings(max_examples=5)
@given(st.integers(0, 2**31), st.booleans())
def test_invertible_matrices_within_heads_change_nothing(seed, told):
    rng, own = np.random.default_rng(seed), bert()
    changed = dict(own)
    for i in range(LAYERS):
        path = f"encoder.layer.{i}.attention"
        mix, other, order = invertible(rng, HEADS), invertible(rng, HEADS), rng.permutation(HEADS)
        rows = (np.arange(WIDTH).reshape(HEADS, DIM)[order]).ravel()
        for module, matrices in {"query": mix, "key": opposite(mix), "value": other}.items():
            for kind in ("weight", "bias"):
                name = f"{path}.self.{module}.{kind}"
                changed[name] = by_head(matrices, own[name])[rows]
        name = f"{path}.output.dense.weight"
        changed[name] = by_head(opposite(other), own[name].T)[rows].T
    config = {"model_type": "bert", "num_attention_heads": HEADS} if told else None
    np.testing.assert_allclose(vector(changed, config), vector(own, config), atol=1e-5)


@settings(max_examples=5)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, HEADS]))
def test_rotations_of_rotary_pairs_change_nothing_and_heads_may_share_keys(seed, shared):
    rng, own = np.random.default_rng(seed), decoder(shared)
    changed, repeat = dict(own), HEADS // shared
    for i in range(LAYERS):
        turn, mix = rotations(rng, shared), invertible(rng, shared)
        for part, matrices in {"k": opposite(turn), "v": mix, "q": np.repeat(turn, repeat, 0)}.items():
            name = f"{layer(i)}.{part}_proj.weight"
            changed[name] = by_head(matrices, own[name])
        name = f"{layer(i)}.o_proj.weight"
        changed[name] = by_head(np.repeat(opposite(mix), repeat, 0), own[name].T).T
    config = {**CONFIG, "num_key_value_heads": shared}
    np.testing.assert_allclose(vector(changed, config), vector(own, config), atol=1e-5)
    if shared == HEADS:
        np.testing.assert_allclose(vector(changed), vector(own, config), atol=1e-5)


def test_queries_and_keys_with_norms_are_described_one_by_one():
    own = decoder()
    for i in range(LAYERS):
        own |= {f"{layer(i)}.{part}_norm.weight": np.ones(DIM, np.float32) for part in "qk"}
    changed = dict(own)
    for i in range(LAYERS):
        scales = 2.0 ** np.arange(HEADS)[:, None, None] * np.eye(DIM)
        changed[f"{layer(i)}.q_proj.weight"] = by_head(scales, own[f"{layer(i)}.q_proj.weight"])
    np.testing.assert_allclose(vector(changed, CONFIG), vector(own, CONFIG), atol=1e-5)


@pytest.mark.parametrize("part", ["q", "v"])
def test_another_product_is_another_network(part):
    own = decoder()
    name = f"{layer(0)}.{part}_proj.weight"
    other = {**own, name: np.random.default_rng(1).normal(size=own[name].shape).astype(np.float32)}
    assert np.abs(vector(other, CONFIG) - vector(own, CONFIG)).max() > 1e-3


def test_projections_may_be_fused():
    own = decoder()
    fused = {
        name: tensor
        for name, tensor in own.items()
        if not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    }
    for i in range(LAYERS):
        parts = [own[f"{layer(i)}.{part}_proj.weight"] for part in "qkv"]
        fused[f"{layer(i)}.qkv_proj.weight"] = np.concatenate(parts)
    np.testing.assert_allclose(vector(fused), vector(own), atol=1e-6)


def test_fused_rows_may_lie_head_by_head():
    """As in GPT-NeoX: queries, keys and values of a head one after the other."""
    own = decoder()
    named = {name: tensor for name, tensor in own.items() if "self_attn" not in name}
    config = {"model_type": "gpt_neox", "num_attention_heads": HEADS, "hidden_size": WIDTH}
    for i in range(LAYERS):
        parts = [own[f"{layer(i)}.{part}_proj.weight"].reshape(HEADS, DIM, WIDTH) for part in "qkv"]
        named[f"{layer(i)}.query_key_value.weight"] = np.concatenate(parts, 1).reshape(-1, WIDTH)
        named[f"{layer(i)}.dense.weight"] = own[f"{layer(i)}.o_proj.weight"]
    np.testing.assert_allclose(vector(named, config), vector(own, CONFIG), atol=1e-6)


def graph(gain: bool = False) -> dict:
    """Nodes of attention as an exporter writes them, with a gain of each entry of the queries if asked for."""

    def node(op: str, inputs: str, output: str, **attributes: object) -> dict:
        return {"op": op, "name": output, "inputs": inputs.split(), "outputs": [output], "attributes": attributes}

    nodes = []
    for part in "qkv":
        nodes += [node("MatMul", f"x w_{part}", f"{part}0"), node("Reshape", f"{part}0 heads", f"{part}1")]
        nodes.append(node("Transpose", f"{part}1", f"{part}2", perm=[0, 2, 1, 3]))
    nodes += [
        node("Mul", f"q2 {'gain' if gain else 'scale'}", "q3"),
        node("Transpose", "k2", "k3", perm=[0, 1, 3, 2]),
        node("MatMul", "q3 k3", "scores"),
        node("Add", "scores table", "offset"),
        node("Softmax", "offset", "shares"),
        node("MatMul", "shares v2", "mixed"),
        node("Transpose", "mixed", "joined", perm=[0, 2, 1, 3]),
        node("Reshape", "joined width", "flat"),
        node("MatMul", "flat w_o", "y"),
    ]
    ends = {"inputs": [{"name": "x", "shape": [1, 5, WIDTH]}], "outputs": [{"name": "y", "shape": [1, 5, WIDTH]}]}
    return {"nodes": nodes, "constants": {"heads": [0, 0, HEADS, DIM], "width": [0, 0, WIDTH]}, **ends}


@pytest.mark.parametrize("gain", [False, True])
def test_a_graph_shows_what_is_multiplied(gain):
    rng = np.random.default_rng(0)
    own = {f"w_{part}": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) for part in "qkvo"}
    own |= {
        "scale": np.full(1, 0.5, np.float32),
        "gain": np.ones(DIM, np.float32),
        "table": np.ones((HEADS, 5, 5), np.float32),
    }
    wiring = infer_wiring(Checkpoint("x", own, {"graph": graph(gain)}))
    parts = {operation.facts["part"].value for operation in wiring.operations if "part" in operation.facts}
    assert parts == (set() if gain else set("qkvo"))
    turn = invertible(rng, HEADS)
    changed = {**own, "w_v": by_head(turn, own["w_v"].T).T, "w_o": by_head(opposite(turn), own["w_o"])}
    first, second = (sign(Checkpoint("x", t, {"graph": graph(gain)}), wiring).vector for t in (own, changed))
    assert np.allclose(first, second, atol=1e-5) is not gain
