"""Networks under GGUF's names: the rules know them, and what its metadata says takes the place of a configuration."""

import numpy as np
import pytest
from hybrid_networks import NETWORKS, WIDTH, WORDS

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.gguf_names import config_of, place_of
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.0.input_layernorm": "blk.0.attn_norm",
    "model.layers.0.mlp_norm": "blk.0.ffn_norm",
    **{f"model.layers.0.mlp.{n}_proj": f"blk.0.ffn_{n}" for n in ("gate", "up", "down")},
    **{f"model.layers.0.self_attn.{n}_proj": f"blk.0.attn_{n}" for n in ("q", "k", "v", "gate")},
    "model.layers.0.self_attn.o_proj": "blk.0.attn_output",
    "model.layers.0.moe.gate": "blk.0.ffn_gate_inp",
}
LLAMA = {"general.architecture": "llama", "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}


def gguf_name(name):
    module, _, field = name.rpartition(".")
    return f"{NAMES[module]}.{field}"


def network(seed=1):
    shapes, _, outputs = NETWORKS["gate-by-unit"]
    rng = np.random.default_rng(seed)
    tensors = {gguf_name(n): (rng.standard_normal(s) / np.sqrt(s[-1])).astype(np.float32) for n, s in shapes.items()}

    def run(renamed, words):
        return outputs({name: renamed[gguf_name(name)] for name in shapes}, words)

    return Checkpoint("f.gguf", tensors, {"gguf": LLAMA}), run


def test_a_permutation_leaves_the_outputs_as_they_are():
    checkpoint, run = network()
    wiring = infer_wiring(checkpoint)
    words = np.random.default_rng(2).integers(WORDS, size=7)
    other = permuted(checkpoint.tensors, wiring, 3)
    np.testing.assert_allclose(run(other, words), run(checkpoint.tensors, words), rtol=1e-9, atol=1e-9)
    assert wiring.coverage["graph"] == 1.0
    (heads,) = wiring.axes["blk.0.attn_q.weight"][0]
    assert (heads.size, heads.inner) == (2, 12)
    (stream,) = wiring.axes["blk.0.attn_output.weight"][0]
    assert wiring.groups[stream.group].size == WIDTH and wiring.groups[stream.group].permutable


def test_a_head_that_is_not_there_shares_the_weights_of_the_embedding():
    checkpoint, _ = network()
    tensors = {name: values for name, values in checkpoint.tensors.items() if name != "output.weight"}
    wiring = infer_wiring(Checkpoint("f.gguf", tensors, {"gguf": LLAMA}))
    (stream,) = wiring.axes["token_embd.weight"][1]
    assert wiring.groups[stream.group].permutable


@pytest.mark.parametrize(
    "tensor, path",
    [
        ("blk.3.attn_q.bias", "layers.3.self_attn.q_proj.bias"),
        ("blk.3.ffn_up_exps.weight", "layers.3.mlp.experts.up_proj.weight"),
        ("blk.3.exp_probs_b.bias", "layers.3.mlp.gate.e_score_correction_bias"),
        ("enc.blk.1.attn_rel_b.weight", "enc.layers.1.self_attn.relative_attention_bias.weight"),
        ("blk.0.shortconv.conv.weight", "layers.0.conv.conv.weight"),
        ("blk.0.time_mix_key.weight", "layers.0.time_mix_key.weight"),
        ("token_embd.weight", "embed_tokens.weight"),
        ("rope_freqs.weight", "rope_freqs.weight"),
    ],
)
def test_places(tensor, path):
    assert place_of(tensor) == path


def test_slopes_are_told_by_the_architecture():
    assert config_of({"general.architecture": "bloom"}, ["output.weight"])["alibi"]
    assert "rope_theta" in config_of(LLAMA, ["output.weight"])
    assert "rope_theta" not in config_of({"general.architecture": "gpt2"}, ["position_embd.weight"])
