"""What `config.json` and the names of all tensors say of attention: heads, rotary embeddings, position codes."""

import re
from collections.abc import Iterable, Mapping

from wsrl.wiring.tree import Node

ROTARY = re.compile(r"rope|rotary", re.I)
ABSOLUTE = re.compile(
    r"pos_embed|position|wpe|pos_emb|rel_pos|r_kernel|r_w_bias|rel_emb|_pe$|\.pe$|pos_enc|relative|attention_bias|pos_block|"
    r"cpe|dwconv|conv_dw|sr\.",
    re.I,
)
LIKE = {"vision": "image|visual", "text": "language"}


class Settings:
    """Answers from `config.json`, or from names where there is none.

    Args:
      config: the parsed file, or empty.
      names: of all tensors.

    Attributes:
      positions: whether something in the file tells positions apart.
      recurrent: whether there are recurrent layers that do.
      alibi: whether heads differ in fixed slopes (Press et al., 2022).
      rotary: whether queries and keys may be turned by their positions (Su et al., 2021).
      clipped: whether projections are clipped or normalized by something without weights.
      refused: whether fused rows lie in an order of their own.
    """

    def __init__(self, config: Mapping, names: Iterable[str]):
        names = list(names)
        items = _items(config)
        self.config = config
        self.positions = any(ABSOLUTE.search(name) for name in names)
        self.recurrent = any("A_log" in name or "time_" in name for name in names)
        self.alibi = any("alibi" in key and value for key, value in items) or config.get("model_type") in (
            "mpt",
            "bloom",
        )
        self.clipped = config.get("model_type") == "yoso" or any(
            re.search(r"clip_qkv|qk_?(layer)?_?norm|use_qk", key) and value for key, value in items
        )
        if any(ROTARY.search(name) for name in names):
            self.rotary = True
        elif config:
            self.rotary = config.get("model_type") in ("roformer", "vjepa2") or any(
                ROTARY.search(key) and value not in (None, False) for key, value in items
            )
        else:
            eva = any(re.search(r"attn\.(q_bias|q_proj)", name) for name in names)
            self.rotary = eva or not self.positions
        self.refused = config.get("model_type") == "codegen"

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
                heads = scope.get(key)
                if isinstance(heads, int) and heads > 0:
                    shared = ("num_key_value_heads", "num_kv_heads", f"{side}_num_key_value_heads")
                    return heads, next((scope[k] for k in shared if isinstance(scope.get(k), int)), heads)
        return None


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
