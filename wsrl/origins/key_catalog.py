"""How architectures name their tensors, as data: which keys tell an architecture, and where its width stands.

Entries were written from the public naming of the libraries. All keys of an entry must be there; of several entries
that fit, the one with the most keys counts. Prefixes such as `model.` do not matter; `0` stands for any block.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """An architecture.

    Attributes:
      name: of the architecture.
      library: that names tensors so.
      keys: ends of names of tensors, without prefixes; the first one with a `0` between dots counts the blocks.
      absent: ends that must not be there.
      width: end of the name of a tensor and the axis whose length is the width.
      sizes: (width, blocks) -> usual name of that size; None for any number of blocks.
    """

    name: str
    library: str
    keys: tuple[str, ...]
    absent: tuple[str, ...] = ()
    width: tuple[str, int] | None = None
    sizes: dict[tuple[int, int | None], str] = field(default_factory=dict)


VIT_SIZES: dict[tuple[int, int | None], str] = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
}
BERT_SIZES: dict[tuple[int, int | None], str] = {(768, 12): "base", (1024, 24): "large", (384, 6): "MiniLM, 6 layers"}
GPT2_SIZES: dict[tuple[int, int | None], str] = {
    (768, 12): "small",
    (1024, 24): "medium",
    (1280, 36): "large",
    (1600, 48): "XL",
    (768, 6): "DistilGPT-2",
}
LLAMA = ("layers.0.self_attn.q_proj.weight", "layers.0.mlp.gate_proj.weight", "embed_tokens.weight")
LLAMA_WIDTH = ("layers.0.self_attn.q_proj.weight", 1)
BART = ("encoder.layers.0.self_attn.q_proj.weight", "decoder.layers.0.encoder_attn.q_proj.weight")
CONTEXT: dict[tuple[int, int | None], str] = {
    (768, None): "Stable Diffusion 1",
    (1024, None): "Stable Diffusion 2",
    (2048, None): "Stable Diffusion XL",
}

CATALOG = (
    # transformers
    Entry("BERT", "transformers", ("encoder.layer.0.attention.self.query.weight", "embeddings.word_embeddings.weight"),
          width=("embeddings.word_embeddings.weight", 1), sizes=BERT_SIZES),
    Entry("DistilBERT", "transformers", ("transformer.layer.0.attention.q_lin.weight",),
          width=("transformer.layer.0.attention.q_lin.weight", 1), sizes={(768, 6): "base"}),
    Entry("ALBERT", "transformers", ("encoder.embedding_hidden_mapping_in.weight",),
          width=("encoder.embedding_hidden_mapping_in.weight", 0), sizes={(768, None): "base", (1024, None): "large"}),
    Entry("GPT-2", "transformers", ("h.0.attn.c_attn.weight", "wte.weight", "wpe.weight"),
          width=("wte.weight", 1), sizes=GPT2_SIZES),
    Entry("GPT-NeoX", "transformers", ("layers.0.attention.query_key_value.weight", "embed_in.weight"),
          width=("embed_in.weight", 1)),
    Entry("BLOOM", "transformers", ("h.0.self_attention.query_key_value.weight", "word_embeddings_layernorm.weight"),
          width=("word_embeddings_layernorm.weight", 0)),
    Entry("OPT", "transformers", ("decoder.layers.0.self_attn.q_proj.weight", "decoder.embed_positions.weight",
                                  "decoder.layers.0.fc1.weight"), ("encoder_attn.q_proj.weight",),
          ("decoder.layers.0.fc1.weight", 1)),
    Entry("Llama", "transformers", LLAMA, ("self_attn.q_proj.bias", "self_attn.q_norm.weight"), LLAMA_WIDTH),
    Entry("Qwen2", "transformers", (*LLAMA, "layers.0.self_attn.q_proj.bias"), (), LLAMA_WIDTH),
    Entry("Qwen3", "transformers", (*LLAMA, "layers.0.self_attn.q_norm.weight"),
          ("pre_feedforward_layernorm.weight",), LLAMA_WIDTH),
    Entry("Gemma 2", "transformers", (*LLAMA, "layers.0.pre_feedforward_layernorm.weight"),
          ("self_attn.q_norm.weight",), LLAMA_WIDTH),
    Entry("Gemma 3", "transformers", (*LLAMA, "layers.0.pre_feedforward_layernorm.weight",
                                      "layers.0.self_attn.q_norm.weight"), (), LLAMA_WIDTH),
    Entry("Phi-3", "transformers", ("layers.0.self_attn.qkv_proj.weight", "layers.0.mlp.gate_up_proj.weight"), (),
          ("layers.0.self_attn.qkv_proj.weight", 1)),
    Entry("Mixtral", "transformers", ("layers.0.block_sparse_moe.gate.weight", "layers.0.self_attn.q_proj.weight"), (),
          LLAMA_WIDTH),
    Entry("Mamba", "transformers", ("layers.0.mixer.A_log", "layers.0.mixer.in_proj.weight"), (),
          ("layers.0.mixer.in_proj.weight", 1)),
    Entry("T5", "transformers", ("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"), (),
          ("shared.weight", 1), {(512, 6): "small", (768, 12): "base", (1024, 24): "large"}),
    Entry("BART", "transformers", (*BART, "encoder.embed_positions.weight", "encoder.layernorm_embedding.weight"), (),
          (BART[0], 1), {(768, 6): "base", (1024, 12): "large"}),
    Entry("Marian", "transformers", (*BART, "final_logits_bias"), ("layernorm_embedding.weight",), (BART[0], 1)),
    Entry("Whisper", "transformers", (*BART, "encoder.conv1.weight", "encoder.conv2.weight"), (), (BART[0], 1),
          {(384, 4): "tiny", (512, 6): "base", (768, 12): "small", (1024, 24): "medium", (1280, 32): "large"}),
    Entry("wav2vec 2.0", "transformers", ("feature_extractor.conv_layers.0.conv.weight",
                                          "encoder.layers.0.attention.q_proj.weight"), (),
          ("encoder.layers.0.attention.q_proj.weight", 1), {(768, 12): "base", (1024, 24): "large"}),
    Entry("CLIP", "transformers", ("text_model.encoder.layers.0.self_attn.q_proj.weight",
                                   "vision_model.encoder.layers.0.self_attn.q_proj.weight", "logit_scale")),
    Entry("CLIP text encoder", "transformers", ("text_model.encoder.layers.0.self_attn.q_proj.weight",),
          ("vision_model.encoder.layers.0.self_attn.q_proj.weight",),
          ("text_model.encoder.layers.0.self_attn.q_proj.weight", 1)),
    Entry("ViT", "transformers", ("encoder.layer.0.attention.attention.query.weight",
                                  "embeddings.patch_embeddings.projection.weight"), (),
          ("encoder.layer.0.attention.attention.query.weight", 1), VIT_SIZES),
    # timm and torchvision
    Entry("ViT", "timm", ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"), ("relative_position_bias_table",),
          ("blocks.0.attn.qkv.weight", 1), VIT_SIZES),
    Entry("Swin", "timm", ("layers.0.blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"), (),
          ("patch_embed.proj.weight", 0), {(96, None): "tiny or small", (128, None): "base", (192, None): "large"}),
    Entry("MLP-Mixer", "timm", ("blocks.0.mlp_tokens.fc1.weight", "stem.proj.weight"), (), ("stem.proj.weight", 0)),
    Entry("ConvNeXt", "timm", ("stages.0.blocks.0.conv_dw.weight", "stem.0.weight"), (), ("stem.0.weight", 0),
          {(96, None): "tiny or small", (128, None): "base", (192, None): "large"}),
    Entry("EfficientNet", "timm", ("blocks.0.0.conv_dw.weight", "conv_stem.weight", "conv_head.weight"), (),
          ("conv_stem.weight", 0)),
    Entry("ResNet with basic blocks", "torchvision, timm", ("layer3.0.conv1.weight", "layer2.0.downsample.0.weight"),
          ("layer3.0.conv3.weight",), ("layer1.0.conv1.weight", 0), {(64, 2): "ResNet-18", (64, 6): "ResNet-34"}),
    Entry("ResNet with bottlenecks", "torchvision, timm", ("layer3.0.conv3.weight", "layer2.0.downsample.0.weight"),
          (), ("layer1.0.conv1.weight", 0),
          {(64, 6): "ResNet-50", (64, 23): "ResNet-101", (64, 36): "ResNet-152"}),
    Entry("MobileNetV2", "torchvision", ("features.1.conv.0.0.weight", "features.0.0.weight"), (),
          ("features.0.0.weight", 0)),
    Entry("DenseNet", "torchvision", ("features.denseblock1.denselayer1.conv1.weight", "features.conv0.weight"), (),
          ("features.conv0.weight", 0)),
    Entry("VGG", "torchvision", ("features.0.weight", "classifier.0.weight", "classifier.3.weight"), (),
          ("features.0.weight", 0)),
    # diffusers, and files that hold a whole pipeline
    Entry("U-Net of a text-to-image model", "diffusers", (
          "down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
          ("controlnet_cond_embedding.conv_in.weight",),
          ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1), CONTEXT),
    Entry("ControlNet", "diffusers", ("controlnet_cond_embedding.conv_in.weight",
                                      "down_blocks.0.resnets.0.conv1.weight")),
    Entry("Autoencoder of latent diffusion", "diffusers", ("encoder.down_blocks.0.resnets.0.conv1.weight",
                                                           "decoder.up_blocks.0.resnets.0.conv1.weight")),
    Entry("Stable Diffusion, whole pipeline", "single file", (
          "diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight",
          "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"), (),
          ("diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1), CONTEXT),
    Entry("FLUX", "single file", ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight")),
    Entry("FLUX", "diffusers", ("transformer_blocks.0.attn.add_q_proj.weight",
                                "single_transformer_blocks.0.attn.to_q.weight")),
    # llama.cpp
    Entry("decoder", "llama.cpp", ("blk.0.attn_q.weight", "token_embd.weight"), (), ("blk.0.attn_q.weight", 1)),
)  # fmt: skip


def find_entry(names: Iterable[str]) -> Entry | None:
    """Returns the entry with the most keys, all of which are among the names of tensors and adapted modules."""
    ends = {neutral(name) for name in names}
    dotted = "\n".join(f".{name}" for name in ends) + "\n"

    def holds(key: str) -> bool:
        return f".{neutral(key)}\n" in dotted

    fitting = [e for e in CATALOG if all(map(holds, e.keys)) and not any(map(holds, e.absent))]
    return max(fitting, key=lambda entry: len(entry.keys), default=None)


def neutral(name: str) -> str:
    """Returns the name of a tensor or of an adapted module's weight with dots between its parts."""
    return name.replace("/", ".")
