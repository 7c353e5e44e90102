"""What `config.json` and the names of all tensors say of attention: heads, rotary embeddings, position codes."""

import re
from collections.abc import Mapping

from wsrl.wiring.tree import Node, Shape

ROTARY = re.compile(r"rope|rotary", re.I)
RELATIVE = re.compile(  # offsets of scores, and convolutions: what has these turns nothing
    r"rel_pos|meta_mlp|cpb_mlp|r_kernel|r_w_bias|rel_emb|relative|pos_bias_u|distance_embedding|attention_bias|pos_block"
    r"|cpe|dwconv|conv_dw|sr\.",
    re.I,
)
ABSOLUTE = re.compile(r"pos_embed|(patch|pixel)_pos$|position|wpe|pos_emb|_pe$|\.pe$|pos_enc|pos_conv", re.I)
LIKE = {"vision": "image|visual", "text": "language"}
CLASSIC = (  # networks of which no variant turns queries and keys: BERT, XLM, GPT, GPT-2, the first ViT, VOLO
    (r"embeddings\.position_embeddings", r"attention\.(self|attention)\.(query|qkv)\."),
    (r"(^|\.)position_embeddings\.", r"\.q_lin\."),
    (r"(^|\.)(wpe|positions_embed)\.", r"\.(c_attn|q_proj)\."),
    (r"(^|\.)embed_positions\.weight", r"\.self_attn\.out_proj\.", r"\.self_attn_layer_norm\."),
    (
        r"(^|\.)text_model\.embeddings\.position_embedding\.",
        r"(^|\.)text_model\.encoder\.layers\.\d+\.self_attn\.out_proj\.",
    ),
    (r"^pos_embed$", r"^blocks\.\d+\.attn\.qkv\."),
    (r"^pos_embed$", r"^transformers\.\d+\.blocks\.\d+\.attn\.qkv\.", r"^transformers\.\d+\.pool\.conv\."),  # PiT
    (r"^stages\.\d+\.blocks\.\d+\.token_mixer\.(qkv|mixer\.)", r"\.conv_kxk\."),  # FastViT
    (r"^patch_pos$", r"^blocks\.\d+\.attn_(in|out)\.qk\."),  # TNT
    (r"^pos_embed_1$", r"^blocks\.\d+\.blocks\.\d+\.\d+\.attn\.qkv\."),  # CrossViT
    (r"^pos_embed$", r"^network\.\d+\.\d+\.attn\.attn\."),  # outlook attention (Yuan et al., VOLO, 2021)
)
NORM_GAIN = re.compile(r"(norm|ln)\w*\.(weight|scale)$", re.I)
NORM_SHIFT = re.compile(r"(norm|ln)\w*\.(bias|beta)$", re.I)
NEWER = re.compile(r"^norm_pre\.|\.gamma_[12]$|[qk]_norm|fc1_g|\.q_bias$")
BY_HEAD_TYPES = ("gpt_bigcode",)  # model types whose fused rows lie head by head under a name that does not say so


class Settings:
    """Answers from `config.json`, or from names where there is none.

    Args:
      config: the parsed file, or empty.
      shapes: of all tensors.

    Attributes:
      positions: whether something in the file tells positions apart.
      recurrent: whether there are recurrent layers that do.
      alibi: whether heads differ in fixed slopes (Press et al., 2022).
      rotary: whether queries and keys may be turned by their positions (Su et al., 2021).
      other_codes: whether the configuration tells of codes of positions other than rotary ones.
      clipped: whether projections are clipped or normalized by something without weights.
      modern: whether norms have gains and no shifts, which networks with fixed position codes never had.
      refused: whether fused rows lie in an order of their own.
      by_head: whether fused rows lie head by head, whatever they are called.
    """

    def __init__(self, config: Mapping, shapes: Mapping[str, Shape]):
        names = list(shapes)
        items = _items(config)
        self.config = config
        relative = any(RELATIVE.search(name) for name in names)
        self.positions = relative or any(ABSOLUTE.search(name) for name in names)
        self.recurrent = any("A_log" in name or "time_" in name for name in names)
        self.alibi = any("alibi" in key and value for key, value in items) or config.get("model_type") in (
            "mpt",
            "bloom",
        )
        self.clipped = config.get("model_type") == "yoso" or any(
            re.search(r"clip_qkv|qk_?(layer)?_?norm|use_qk", key) and value for key, value in items
        )
        self.modern = any(map(NORM_GAIN.search, names)) and not any(map(NORM_SHIFT.search, names))
        codes = [v for key, v in items if re.fullmatch(r"position_embeddings?_type", key) and isinstance(v, str)]
        self.other_codes = bool(codes) and not any(map(ROTARY.search, codes))
        told = [key for key, value in items if ROTARY.search(key) and value not in (None, False)]
        if self.other_codes:  # configurations keep the base of a code that they do not choose
            told = [key for key in told if key != "rotary_embedding_base"]
        if any(ROTARY.search(name) for name in names):
            self.rotary = True
        elif config:
            self.rotary = config.get("model_type") in ("roformer", "vjepa2") or bool(told)
        else:
            self.rotary = not (relative or _is_classic(shapes))
        self.refused = config.get("model_type") == "codegen"
        self.by_head = config.get("model_type") in BY_HEAD_TYPES

    def heads(self, node: Node) -> tuple[int, int] | None:
        """(heads, key-value heads) for the part of the network where a module lies; None where nothing tells."""
        path = node.dotted.lower()
        scopes: list[Mapping] = [self.config]
        for key, value in self.config.items():
            if isinstance(value, dict) and key.endswith("_config"):
                stem = key.removesuffix("_config")
                words = "|".join(filter(None, (rf"(^|[._]){re.escape(stem)}", LIKE.get(stem))))
                if re.search(words, path):
                    scopes.insert(0, value)
        side = "decoder" if "decoder" in path else "encoder"
        own = (f"{side}_attention_heads", f"num_{side}_attention_heads", f"{side}_num_attention_heads")
        for scope in scopes:
            for key in (*own, "num_attention_heads", "n_head", "n_heads", "num_heads"):
                heads = _of_stage(scope.get(key), node)
                if isinstance(heads, int) and heads > 0:
                    shared = ("num_key_value_heads", "num_kv_heads", f"{side}_num_key_value_heads")
                    return heads, next((scope[k] for k in shared if isinstance(scope.get(k), int)), heads)
        return None


def told(config: Mapping, *keys: str) -> int | None:
    """The number that a configuration gives under one of some keys, at whatever depth; None if there are several."""
    found = {value for key, value in _items(config) if key in keys and isinstance(value, int)}
    return found.pop() if len(found) == 1 else None


def _of_stage(numbers: object, node: Node) -> object:
    """The number for the stage of a module where the configuration lists one for each, else what it is given."""
    stage = next((int(name) for name in node.path if name.isdigit()), None)
    if isinstance(numbers, list) and stage is not None and stage < len(numbers):
        return numbers[stage]
    return numbers


def _is_classic(shapes: Mapping[str, Shape]) -> bool:
    """Whether names are those of a network that is known not to turn queries and keys by their positions.

    A table of positions alone does not tell: a rotary embedding beside it leaves nothing in the file.
    """
    names = list(shapes)
    if any(name.endswith("c_attn.weight") and shape[0] > shape[-1] for name, shape in shapes.items()):
        return False  # GPT-2's names on dense layers of PyTorch: networks of one's own, also with rotary embeddings
    pooled = "cls_token" in names and any(name.startswith("attn_pool.") for name in names)
    if pooled or any(NEWER.search(name) for name in names):
        return False
    return any(all(any(re.search(word, name) for name in names) for word in words) for words in CLASSIC)


def _items(config: Mapping) -> list[tuple[str, object]]:
    """Keys and values at all depths; a value that names rotary embeddings counts as a key."""
    found: list[tuple[str, object]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            if ROTARY.search(key):
                found.append((key, True))
            found += _items(value)
        elif value is not None:
            found.append((key, value))
            if isinstance(value, str) and ROTARY.search(value):
                found.append((value, True))
    return found
