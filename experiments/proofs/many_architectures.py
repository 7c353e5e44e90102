"""Many more architectures, small, for a thorough proof; each stands for names or an order of layers that others lack.

Whoever imports this module needs the extra `permcheck`.
"""

from experiments.proofs.architectures import (
    ARCHITECTURES,
    TEXT,
    VOCABULARY,
    Architecture,
    timm_model,
    transformers_model,
)

PAIR = ("input_ids", "decoder_input_ids")
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
GROUPED = TEXT | SPECIAL | {"num_key_value_heads": 2}

ENCODERS = {
    "albert": ("AlbertForMaskedLM", {"embedding_size": 32}),
    "bert-classifier": ("BertForSequenceClassification", {}),
    "camembert": ("CamembertForMaskedLM", {}),
    "data2vec-text": ("Data2VecTextForMaskedLM", {}),
    "deberta": ("DebertaForMaskedLM", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "electra": ("ElectraForMaskedLM", {"embedding_size": 32}),
    "ernie": ("ErnieForMaskedLM", {}),
    "layoutlm": ("LayoutLMForMaskedLM", {}),
    "mpnet": ("MPNetForMaskedLM", {}),
    "nystromformer": ("NystromformerForMaskedLM", {"num_landmarks": 12, "segment_means_seq_len": 12}),
    "rembert": ("RemBertForMaskedLM", {"input_embedding_size": 32, "output_embedding_size": 40}),
    "roberta": ("RobertaForMaskedLM", {"pad_token_id": 1}),
    "roformer": ("RoFormerForMaskedLM", {"embedding_size": 48}),
}
DECODERS = {
    "arcee": ("ArceeForCausalLM", {}),
    "cohere": ("CohereForCausalLM", {}),
    "ernie4_5": ("Ernie4_5ForCausalLM", {}),
    "gemma": ("GemmaForCausalLM", {"head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", {"head_dim": 24}),
    "glm": ("GlmForCausalLM", {"head_dim": 16}),
    "granite": ("GraniteForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {}),
    "nemotron": ("NemotronForCausalLM", {}),
    "olmo": ("OlmoForCausalLM", {}),
    "olmo2": ("Olmo2ForCausalLM", {}),
    "persimmon": ("PersimmonForCausalLM", {"num_key_value_heads": 4}),
    "phi": ("PhiForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 16}),
    "seed-oss": ("SeedOssForCausalLM", {}),
    "smollm3": ("SmolLM3ForCausalLM", {}),
    "stablelm": ("StableLmForCausalLM", {}),
    "starcoder2": ("Starcoder2ForCausalLM", {}),
}
OTHERS = {
    "bloom": ("BloomForCausalLM", {"n_layer": 2, "n_head": 4}),
    "codegen": ("CodeGenForCausalLM", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}),
    "falcon-alibi": (
        "FalconForCausalLM",
        {"multi_query": False, "alibi": True, "parallel_attn": False, "new_decoder_architecture": False, "bias": True},
    ),
    "gpt-bigcode": (
        "GPTBigCodeForCausalLM",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 40, "multi_query": False},
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", {}),
    "gptj": ("GPTJForCausalLM", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}),
    "mamba": ("MambaForCausalLM", {"state_size": 8, "time_step_rank": 6}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 104, "word_embed_proj_dim": 64}),
}
PAIRS = {
    "bart": "BartForConditionalGeneration",
    "marian": "MarianMTModel",
    "mbart": "MBartForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 104, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
SIDES = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 104, "decoder_ffn_dim": 88}
SIDES |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 1}
IMAGES = {  # pixels a side, options
    "cait_xxs24_224": (64, {"img_size": 64, "depth": 2}),
    "convnextv2_atto": (64, {}),
    "deit_tiny_distilled_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "efficientnet_lite0": (64, {}),
    "legacy_seresnet18": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "poolformer_s12": (64, {}),
    "regnetx_002": (64, {}),
    "repvgg_a0": (64, {}),
    "resnet26d": (64, {}),
    "resnetv2_18": (64, {}),
    "vit_pe_core_tiny_patch16_384": (64, {"img_size": 64, "depth": 2}),
    "vit_small_patch16_rope_ape_224": (64, {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 4}),
}

MANY: dict[str, Architecture] = {
    **ARCHITECTURES,
    **{n: transformers_model(model, **(TEXT | more)) for n, (model, more) in (ENCODERS | OTHERS).items()},
    **{n: transformers_model(m, **(GROUPED | more)) for n, (m, more) in DECODERS.items()},
    **{n: transformers_model(m, *PAIR, **(TEXT | SIDES | SPECIAL)) for n, m in PAIRS.items()},
    "mt5": transformers_model("MT5ForConditionalGeneration", *PAIR, vocab_size=VOCABULARY, **T5),
    "t5-gated": transformers_model(
        "T5ForConditionalGeneration", *PAIR, vocab_size=VOCABULARY, feed_forward_proj="gated-gelu", **T5
    ),
    **{name: timm_model(name, pixels, **options) for name, (pixels, options) in IMAGES.items()},
}
