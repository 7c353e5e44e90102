"""Wiring from names and shapes alone: which groups are found, and that permuting them changes nothing."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import mixed, permuted

rng = np.random.default_rng(0)


def checkpoint(shapes, **metadata):
    return Checkpoint(
        "f", {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}, metadata
    )


def claim_of(shapes, **metadata):
    return infer_wiring(checkpoint(shapes, **metadata))


def norm(path, size):
    return {f"{path}.{field}": (size,) for field in ("weight", "bias", "running_mean", "running_var")}


def linear(path, out, into, bias=True):
    return {f"{path}.weight": (out, into)} | ({f"{path}.bias": (out,)} if bias else {})


def segments(claim, tensor, axis):
    """(size, outer, inner) of the segments of an axis that hold permutable groups, None for others."""
    found = claim.axes[tensor][axis]
    return found and [
        (s.size, s.outer, s.inner) if s.group and claim.groups[s.group].permutable else None for s in found
    ]


def group(claim, tensor, axis):
    """The group along an axis that holds one."""
    (segment,) = claim.axes[tensor][axis]
    return segment.group


def role(claim, tensor, axis):
    return claim.groups[group(claim, tensor, axis)].role


MLP = linear("net.0", 12, 5) | linear("net.2", 9, 12) | linear("net.4", 3, 9)


def test_mlp():
    claim = claim_of(MLP)
    assert segments(claim, "net.0.weight", 0) == [(12, 1, 1)]
    assert group(claim, "net.0.weight", 0) == group(claim, "net.0.bias", 0) == group(claim, "net.2.weight", 1)
    assert role(claim, "net.0.weight", 1) == "input"
    assert role(claim, "net.4.bias", 0) == "output"
    assert {g.scale for g in claim.groups.values()} == {"none"}


@pytest.mark.parametrize(
    "activation, scale", [("relu", "positive"), ("tanh", "sign"), ("gelu", "none"), (None, "none")]
)
def test_scales_follow_the_activation(activation, scale):
    claim = claim_of(MLP, activation=activation)
    assert {g.scale for g in claim.groups.values() if g.role == "hidden"} == {scale}
    assert claim.axes["net.0.bias"][0][0].power == (scale != "none")
    assert claim.axes["net.2.weight"][1][0].power == -(scale != "none")


def test_cnn_with_flatten():
    shapes = {"0.weight": (8, 3, 3, 3), "0.bias": (8,), "2.weight": (12, 8, 3, 3), "2.bias": (12,)}
    claim = claim_of(shapes | linear("5", 20, 12 * 25) | linear("7", 4, 20))
    assert segments(claim, "5.weight", 1) == [(12, 1, 25)]
    assert group(claim, "5.weight", 1) == group(claim, "2.weight", 0)
    assert claim.axes["2.weight"][2:] == (None, None)


def resnet():
    shapes = {"conv1.weight": (8, 3, 7, 7)} | norm("bn1", 8)
    for layer, (width, inputs) in enumerate([(8, 8), (12, 32)], 1):
        for block in range(2):
            path, given = f"layer{layer}.{block}", inputs if block == 0 else 4 * width
            shapes |= {f"{path}.conv1.weight": (width, given, 1, 1), f"{path}.conv2.weight": (width, width, 3, 3)}
            shapes |= {f"{path}.conv3.weight": (4 * width, width, 1, 1)}
            shapes |= norm(f"{path}.bn1", width) | norm(f"{path}.bn2", width) | norm(f"{path}.bn3", 4 * width)
            if block == 0:
                shapes |= {f"{path}.downsample.0.weight": (4 * width, given, 1, 1)} | norm(
                    f"{path}.downsample.1", 4 * width
                )
    return shapes | linear("fc", 10, 48)


def test_resnet():
    claim = claim_of(resnet())
    stem = group(claim, "conv1.weight", 0)
    assert group(claim, "layer1.0.downsample.0.weight", 1) == group(claim, "layer1.0.conv1.weight", 1) == stem
    stream = group(claim, "layer1.0.conv3.weight", 0)
    assert stream == group(claim, "layer1.0.downsample.0.weight", 0) == group(claim, "layer1.1.conv3.weight", 0)
    assert stream == group(claim, "layer2.0.conv1.weight", 1) != group(claim, "layer2.0.conv3.weight", 0)
    inner = {group(claim, f"layer1.{b}.conv{i}.weight", 0) for b in (0, 1) for i in (1, 2)}
    assert len(inner | {stem}) == 5
    assert claim.coverage["graph"] > 0.95


def test_lstm():
    shapes = {"embedding.weight": (30, 6), "lstm.weight_ih_l0": (32, 6), "lstm.weight_hh_l0": (32, 8)}
    claim = claim_of(shapes | {"lstm.bias_ih_l0": (32,), "lstm.bias_hh_l0": (32,)} | linear("fc", 3, 8))
    assert segments(claim, "lstm.weight_ih_l0", 0) == segments(claim, "lstm.bias_hh_l0", 0) == [(8, 4, 1)]
    assert group(claim, "lstm.weight_hh_l0", 1) == group(claim, "fc.weight", 1)
    assert role(claim, "embedding.weight", 0) == "input"


def bert(layers=2, width=16, inner=24):
    shapes = {f"bert.embeddings.{n}_embeddings.weight": (k, width) for n, k in [("word", 30), ("position", 20)]}
    norms = ["bert.embeddings.LayerNorm"]
    for i in range(layers):
        path = f"bert.encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{path}.attention.{name}", width, width)
        shapes |= linear(f"{path}.intermediate.dense", inner, width) | linear(f"{path}.output.dense", width, inner)
        norms += [f"{path}.attention.output.LayerNorm", f"{path}.output.LayerNorm"]
    shapes |= {f"{n}.{field}": (width,) for n in norms for field in ("weight", "bias")}
    return shapes | linear("classifier", 3, width)


def test_bert():
    config = {"model_type": "bert", "num_attention_heads": 4, "architectures": ["BertForSequenceClassification"]}
    claim = claim_of(bert(), config=config)
    layer = "bert.encoder.layer.1"
    assert segments(claim, f"{layer}.attention.self.query.weight", 0) == [(4, 1, 4)]
    assert group(claim, f"{layer}.attention.self.value.weight", 0) == group(
        claim, f"{layer}.attention.output.dense.weight", 1
    )
    assert group(claim, f"{layer}.output.dense.weight", 0) == group(claim, "classifier.weight", 1)
    assert segments(claim, f"{layer}.intermediate.dense.weight", 0) == [(24, 1, 1)]
    assert [(p.heads, p.dim, p.repeat) for p in claim.products] == [(4, 4, 1)] * 4
    assert all(p.left_bias is not None for p in claim.products)


def llama(layers=2, width=32, heads=8, shared=2, inner=40):
    shapes = {"model.embed_tokens.weight": (50, width), "model.norm.weight": (width,), "lm_head.weight": (50, width)}
    for i in range(layers):
        path, keys = f"model.layers.{i}", width * shared // heads
        sizes = {"q": (width, width), "k": (keys, width), "v": (keys, width), "o": (width, width)}
        shapes |= {f"{path}.self_attn.{role}_proj.weight": shape for role, shape in sizes.items()}
        shapes |= {f"{path}.mlp.{n}_proj.weight": (inner, width) for n in ("gate", "up")}
        shapes |= {f"{path}.mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{path}.{n}_layernorm.weight": (width,) for n in ("input", "post_attention")}
    return shapes


LLAMA = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 2, "rope_theta": 1e4}


def test_llama_with_grouped_queries():
    claim = claim_of(llama(), config=LLAMA)
    path = "model.layers.0.self_attn"
    assert segments(claim, f"{path}.q_proj.weight", 0) == segments(claim, f"{path}.o_proj.weight", 1) == [(2, 1, 16)]
    assert segments(claim, f"{path}.k_proj.weight", 0) == [(2, 1, 4)]
    gates = [group(claim, f"model.layers.{i}.mlp.{n}_proj.weight", 0) for i in (0, 1) for n in ("gate", "up")]
    assert gates[0] == gates[1] != gates[2] == gates[3]
    assert claim.groups[gates[0]].role == "hidden"
    stream = group(claim, "model.embed_tokens.weight", 1)
    assert stream == group(claim, "lm_head.weight", 1) == group(claim, "model.norm.weight", 0)
    values = [(p.left.tensor, p.right.tensor, p.right.axis, p.heads, p.dim, p.repeat) for p in claim.products]
    assert values[0] == (f"{path}.v_proj.weight", f"{path}.o_proj.weight", 1, 2, 4, 4)
    assert len(values) == 2  # rotary embeddings lie between key and query


def test_rotary_is_assumed_without_a_config():
    claim = claim_of(llama())
    assert claim.axes["model.layers.0.self_attn.q_proj.weight"][0] is None
    assert not claim.products


def test_t5_shares_its_table():
    shapes = {"shared.weight": (40, 16), "encoder.final_layer_norm.weight": (16,)}
    for i in range(2):
        path = f"encoder.block.{i}.layer"
        shapes |= {f"{path}.0.SelfAttention.{n}.weight": (16, 16) for n in "qkvo"}
        shapes |= {f"{path}.1.DenseReluDense.wi.weight": (24, 16), f"{path}.1.DenseReluDense.wo.weight": (16, 24)}
        shapes |= {f"{path}.{j}.layer_norm.weight": (16,) for j in (0, 1)}
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    config = {"model_type": "t5", "num_heads": 4, "architectures": ["T5EncoderModel"]}
    claim = claim_of(shapes | {table: (32, 4)}, config=config)
    heads = [group(claim, f"encoder.block.{i}.layer.0.SelfAttention.q.weight", 0) for i in (0, 1)]
    assert heads[0] == heads[1] == group(claim, table, 1)


def test_mixture_of_experts():
    shapes = llama(layers=1)
    path = "model.layers.0.mlp"
    shapes = {n: s for n, s in shapes.items() if ".mlp." not in n} | {f"{path}.gate.weight": (4, 32)}
    for e in range(4):
        shapes |= {f"{path}.experts.{e}.{n}_proj.weight": (40, 32) for n in ("gate", "up")}
        shapes |= {f"{path}.experts.{e}.down_proj.weight": (32, 40)}
    claim = claim_of(shapes, config=LLAMA)
    experts = [group(claim, f"{path}.experts.{e}.up_proj.weight", 0) for e in range(4)]
    assert len(set(experts)) == 4
    assert all(claim.groups[g].permutable for g in experts)
    assert group(claim, f"{path}.experts.3.down_proj.weight", 0) == group(claim, "lm_head.weight", 1)


def test_gpt2_keeps_inputs_first():
    shapes = {"transformer.wte.weight": (40, 16), "transformer.wpe.weight": (20, 16)}
    for i in range(2):
        path = f"transformer.h.{i}"
        sizes = {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64), "mlp.c_proj": (64, 16)}
        shapes |= {f"{path}.{n}.weight": s for n, s in sizes.items()} | {
            f"{path}.{n}.bias": s[1:] for n, s in sizes.items()
        }
        shapes |= {f"{path}.ln_{j}.{field}": (16,) for j in (1, 2) for field in ("weight", "bias")}
    shapes |= {"transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (16,)}
    config = {"model_type": "gpt2", "n_head": 4, "architectures": ["GPT2LMHeadModel"]}
    claim = claim_of(shapes, config=config)
    assert segments(claim, "transformer.h.0.attn.c_attn.weight", 1) == [(4, 1, 4)] * 3
    assert segments(claim, "transformer.h.0.mlp.c_fc.weight", 1) == [(64, 1, 1)]
    assert segments(claim, "transformer.h.0.mlp.c_proj.weight", 1) == segments(claim, "transformer.wte.weight", 1)
    assert [(p.left.start, p.left.stop, p.left.axis) for p in claim.products[:2]] == [(32, 48, 1), (16, 32, 1)]


def test_flax_names():
    shapes = {"params/Conv_0/kernel": (3, 3, 1, 8), "params/Conv_0/bias": (8,), "params/Conv_1/kernel": (3, 3, 8, 12)}
    shapes |= {"params/Conv_1/bias": (12,), "params/Dense_0/kernel": (12, 10), "params/Dense_0/bias": (10,)}
    claim = claim_of(shapes)
    assert segments(claim, "params/Conv_0/kernel", 3) == segments(claim, "params/Conv_1/kernel", 2) == [(8, 1, 1)]
    assert group(claim, "params/Dense_0/kernel", 0) == group(claim, "params/Conv_1/bias", 0)


def test_keras_names():
    shapes = {"dense/kernel:0": (5, 12), "dense/bias:0": (12,), "dense_1/kernel:0": (12, 3), "dense_1/bias:0": (3,)}
    claim = claim_of(shapes)
    assert segments(claim, "dense/kernel:0", 1) == segments(claim, "dense_1/kernel:0", 0) == [(12, 1, 1)]


def lora(shapes, pattern, rank=4):
    found = {}
    for name, shape in shapes.items():
        if name.endswith(".weight") and len(shape) == 2:
            down, up = (pattern.format(name.removesuffix(".weight"), side) for side in ("A", "B"))
            found |= {down: (rank, shape[1]), up: (shape[0], rank)}
    return found


def test_lora_alone():
    pairs = lora(MLP, "base_model.model.{}.lora_{}.default.weight", rank=2)
    claim = claim_of(pairs)
    down, up = "base_model.model.net.2.lora_A.default.weight", "base_model.model.net.2.lora_B.default.weight"
    assert segments(claim, down, 0) == segments(claim, up, 1) == [(2, 1, 1)]
    assert claim.axes[down][1] is None
    assert len(claim.products) == 3


def test_lora_beside_its_base():
    base = {f"base_model.model.{n.replace('.weight', '.base_layer.weight')}": s for n, s in MLP.items()}
    claim = claim_of(base | lora(MLP, "base_model.model.{}.lora_{}.default.weight", rank=2))
    hidden = group(claim, "base_model.model.net.0.base_layer.weight", 0)
    assert hidden == group(claim, "base_model.model.net.0.lora_B.default.weight", 0)
    assert hidden == group(claim, "base_model.model.net.2.lora_A.default.weight", 1)


def test_products_of_adapted_layers_are_not_claimed():
    config = {"model_type": "bert", "num_attention_heads": 4}
    value = {"bert.encoder.layer.0.attention.self.value.weight": (16, 16)}
    claim = claim_of(bert(layers=1) | lora(value, "{}.lora_{}.weight"), config=config)
    assert [p.heads for p in claim_of(bert(layers=1), config=config).products] == [4, 4]
    assert [p.heads for p in claim.products] == [4, 1]


def test_what_is_not_understood_is_fixed_and_named():
    claim = claim_of(linear("blocks.0", 12, 5) | linear("blocks.1", 4, 77) | linear("head", 3, 4))
    assert any("blocks.1" in warning for warning in claim.warnings)
    assert not any(g.permutable for g in claim.groups.values())


def relu(x):
    return np.maximum(x, 0)


def mlp_outputs(t, x):
    h = relu(x @ t["net.0.weight"].T + t["net.0.bias"])
    return relu(h @ t["net.2.weight"].T + t["net.2.bias"]) @ t["net.4.weight"].T + t["net.4.bias"]


def cnn_outputs(t, x):
    """Two convolutions of 3 x 3 without padding, flattened, then a dense layer; x is [n, 3, 8, 8]."""
    for name in ("features.0", "features.1"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        x = relu(np.einsum("nchwij,dcij->ndhw", windows, t[f"{name}.weight"]) + t[f"{name}.bias"][:, None, None])
    return x.reshape(len(x), -1) @ t["classifier.weight"].T + t["classifier.bias"]


CNN = {"features.0.weight": (6, 3, 3, 3), "features.0.bias": (6,), "features.1.weight": (5, 6, 3, 3)}
CNN |= {"features.1.bias": (5,)} | linear("classifier", 4, 5 * 16)


@pytest.mark.parametrize(
    "shapes, outputs, inputs", [(MLP, mlp_outputs, (7, 5)), (CNN, cnn_outputs, (2, 3, 8, 8))], ids=["mlp", "cnn"]
)
def test_a_permutation_changes_the_weights_but_not_the_outputs(shapes, outputs, inputs):
    network = checkpoint(shapes)
    x = rng.standard_normal(inputs)
    other = permuted(network.tensors, infer_wiring(network), 1)
    assert any(not np.array_equal(other[name], network.tensors[name]) for name in shapes)
    np.testing.assert_allclose(outputs(other, x), outputs(network.tensors, x), rtol=1e-4, atol=1e-4)


def test_a_member_of_gl_changes_a_pair_but_not_its_product():
    network = checkpoint({"x.lora_A.weight": (3, 10), "x.lora_B.weight": (12, 3)})
    other = mixed(network.tensors, infer_wiring(network), 1)
    down, up = "x.lora_A.weight", "x.lora_B.weight"
    assert not np.allclose(other[down], network.tensors[down])
    np.testing.assert_allclose(
        other[up] @ other[down], network.tensors[up] @ network.tensors[down], rtol=1e-4, atol=1e-4
    )
