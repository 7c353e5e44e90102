"""Names and metadata of GGUF, in the words that the rules know: `blk.0.attn_q` is `layers.0.self_attn.q_proj`.

The format: https://github.com/ggml-org/ggml, `docs/gguf.md`. Converters change the order of rows within the heads of
queries and keys of llama-like models, which exchanging whole heads does not see.
"""

import re
from collections.abc import Collection, Mapping

BLOCK = re.compile(r"((?:enc|dec|v|a)\.)?blk\.(\d+)\.(.+?)(\.(?:weight|bias))?")
OUTSIDE = {"token_embd": "embed_tokens", "position_embd": "position_embeddings", "token_types": "token_type_embeddings",
           "token_embd_norm": "embed_norm", "output_norm": "norm", "output": "lm_head"}  # fmt: skip
PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "qkv": "qkv_proj", "output": "o_proj", "gate": "gate_proj",
               "q_norm": "q_norm", "k_norm": "k_norm", "sinks": "sinks", "sub_norm": "attn_sub_norm",
               "rel_b": "relative_attention_bias", "q_a": "q_a_proj", "q_b": "q_b_proj", "q_a_norm": "q_a_layernorm",
               "kv_a_mqa": "kv_a_proj_with_mqa", "kv_a_norm": "kv_a_layernorm", "kv_b": "kv_b_proj"}  # fmt: skip
SPACES = {"in": "in_proj", "conv1d": "conv1d", "x": "x_proj", "dt": "dt_proj", "a": "A_log", "d": "D", "norm": "norm",
          "out": "out_proj"}  # fmt: skip
INSIDE = {
    **{f"attn_{name}": f"self_attn.{own}" for name, own in PROJECTIONS.items()},
    **{f"cross_attn_{name}": f"encoder_attn.{own}" for name, own in PROJECTIONS.items()},
    **{f"ssm_{name}": f"mixer.{own}" for name, own in SPACES.items()},
    **{f"shortconv.{name}": f"conv.{name}" for name in ("in_proj", "conv", "out_proj")},
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    **{f"ffn_{name}_exps": f"mlp.experts.{name}_proj" for name in ("gate", "up", "down", "gate_up")},
    **{f"ffn_{name}_shexp": f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")},
    **{"ffn_gate_inp": "mlp.gate", "ffn_gate_inp_shexp": "mlp.shared_expert_gate", "ffn_sub_norm": "mlp.ffn_sub_norm"},
    **{"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm"},
    **{"attn_output_norm": "post_attention_norm", "layer_output_norm": "final_layer_norm"},
}
SLOPES = ("bloom", "mpt", "jina-bert-v2", "refact")  # architectures whose heads differ in fixed slopes


def place_of(tensor: str) -> str:
    """The path by which the rules know a tensor of GGUF; its own name where they know none."""
    match = BLOCK.fullmatch(tensor)
    if match is None:
        module, _, field = tensor.rpartition(".")
        return f"{OUTSIDE[module]}.{field}" if module in OUTSIDE else tensor
    prefix, number, module, field = match.groups(default="")
    if module == "exp_probs_b":
        return f"{prefix}layers.{number}.mlp.gate.e_score_correction_bias"
    return f"{prefix}layers.{number}.{INSIDE.get(module, module)}{field}"


def config_of(metadata: Mapping[str, object], tensors: Collection[str]) -> dict[str, object]:
    """What the key-value pairs of a GGUF file say, in the words of `config.json`.

    Args:
      metadata: the pairs.
      tensors: names of all tensors of the file.
    """
    kind = str(metadata.get("general.architecture", ""))
    words = {
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "expert_group_count": "n_group",
        "ssm.group_count": "n_groups",
        "attention.max_alibi_bias": "alibi",
    }
    told = {own: metadata.get(f"{kind}.{key}") for key, own in words.items()}
    config: dict[str, object] = {own: value for own, value in told.items() if isinstance(value, int | float)}
    if kind in SLOPES:
        config["alibi"] = True
    elif "position_embd.weight" not in tensors:
        config["rope_theta"] = metadata.get(f"{kind}.rope.freq_base", 1e4)
    tied = "output.weight" not in tensors
    return {"model_type": kind, "architectures": ["ForCausalLM"], "tie_word_embeddings": tied, **config}
