"""Which tensors of an attention layer are queries, keys, values and outputs, by their names."""

import re

from wsrl.wiring.order import CROSS, numbered
from wsrl.wiring.tree import Node, sorted_children

WRAPPERS = {"proj", "conv", "linear", "c", "dense", "m", "convolution", "0", "conv2d", "conv1d"}
PREFIX = r"(to_|w|project_|linear_|lin_)?"
SUFFIX = r"(_proj|_lin|_head|_linear|_layer)?"
ROLES = {
    "qkv": r"(to_|c_|w|attn_|in_)?qkvs?(_proj|_linear)?|in_proj|in_proj_weight|c_attn|qkv_mix|"
    r"query_key_value|queries_keys_values|att_proj",
    "kv": r"(to_|w)?kvs?(_proj|_linear)?|key_value|keys_values",
    "qk": r"(to_|w)?qk(_proj)?",
    "q": PREFIX + r"(q|query|queries)" + SUFFIX,
    "k": PREFIX + r"(k|key|keys)" + SUFFIX,
    "v": PREFIX + r"(v|value|values)" + SUFFIX,
    "o": r"(w|attention_|linear_|lin_|to_|c_|attn_|out_|post_)?(o|out|output|proj|projection|dense|merge|fc)"
    r"(_proj|_lin|_linear|_project|_projection)?|wo|post_proj|proj_out",
}
PATTERNS = {role: re.compile(pattern, re.I) for role, pattern in ROLES.items()}
SETS = ({"qkv"}, {"q", "k", "v"}, {"q", "kv"}, {"qk", "v"})
FEED_FORWARD = re.compile(r"mlp|ffn|feed_?forward", re.I)
BY_HEAD = {"queries_keys_values", "keys_values", "query_key_value"}


def role_of(path: str) -> str | None:
    """The role of a module in attention, by its path within the attention's container."""
    parts = path.split(".")
    while len(parts) > 1 and parts[-1] in WRAPPERS and (_match(parts[-2]) or parts[-1].isdigit()):
        parts = parts[:-1]
    if parts[-1] in ("dense", "linear") and len(parts) > 1 and _match(parts[-2]):
        parts = parts[:-1]
    return _match(parts[-1])


def _match(name: str) -> str | None:
    return next((role for role, pattern in PATTERNS.items() if pattern.fullmatch(name)), None)


def looks_like_attention(node: Node) -> bool:
    """Whether queries, keys and values lie side by side here, but with more than is understood."""
    if FEED_FORWARD.fullmatch(node.name):
        return False
    roles = [role_of(child.name) for child in node.children.values() if child.kind != "parameter"]
    found = {role for role in roles if role and role != "o"}
    words = {word for child in node.children for word in re.split(r"[_\d]+", child.lower())}
    if {"query", "key"} <= words or {"queries", "keys"} <= words or {"q", "k", "v"} <= words:
        found |= {"q", "k"}
    kinds = ({"q", "k"}, {"q", "kv"}, {"qkv"}, {"qk"})
    lone_values = found == {"v"} and "o" in roles
    bare = [child.name for child in node.children.values() if child.kind == "parameter"]
    learned = any(re.search(r"token|quer|latent|probe", name) for name in bare)
    lone_values = lone_values or (found == {"k", "v"} and learned)  # learned queries without a projection
    layered = any(leaf.kind in ("linear", "conv") for leaf in node.leaves())
    return layered and (lone_values or any(kind <= found for kind in kinds))


def sort_by_role(node: Node) -> tuple[dict[str, Node], list[Node]] | None:
    """Returns the projections of an attention layer by role and what else lies in it; None where they are not clear."""
    if "in_proj_weight" in node.tensors:
        out = node.children.get("out_proj")
        whole = out is not None and out.kind == "linear" and len(node.tensors["in_proj_weight"][1]) == 2
        return ({"qkv": node, "o": out}, []) if out is not None and whole else None
    if FEED_FORWARD.fullmatch(node.name):
        return None
    depth = len(node.path)
    leaves = [leaf for leaf in node.leaves() if leaf is not node]
    if not 2 <= len(leaves) <= 40:
        return None
    found: dict[str, Node] = {}
    rest = []
    for leaf in leaves:
        layer = leaf.kind in ("linear", "conv") and len(leaf.path) - depth <= 3
        role = role_of(".".join(leaf.path[depth:])) if layer else None
        if role in found:
            return None
        if role is None:
            rest.append(leaf)
        else:
            found[role] = leaf
    return (found, rest) if found.keys() - {"o"} in SETS else None


def listed_heads(node: Node) -> tuple[list[Node], Node] | None:
    """Heads that are modules of a list, and the projection that reads them side by side."""
    lists = [child for child in node.children.values() if numbered(child)]
    outs = [child for child in node.children.values() if child.kind == "linear" and role_of(child.name) == "o"]
    if len(lists) != 1 or len(outs) != 1 or len(node.children) != 2:
        return None
    heads = sorted_children(lists[0])
    width = 0
    for head in heads:
        found = sort_by_role(head)
        if found is None or "o" in found[0] or "v" not in found[0]:
            return None
        width += units(found[0]["v"])
    return (heads, outs[0]) if width == fan_in(outs[0]) else None


def convolves_places(node: Node) -> bool:
    """Whether attention lies in a list between convolutions over the places of a map (MobileViT): their padding tells
    places apart, and no network of this kind has position codes beside them."""
    scope, listed = node, False
    while scope.parent is not None and scope.parent.parent is not None:
        listed = listed or numbered(scope)
        scope = scope.parent
        layers = [leaf for child in scope.children.values() if len(child.leaves()) <= 2 for leaf in child.leaves()]
        if listed and not numbered(scope) and any(map(_is_local, layers)):
            return True
    return False


def _is_local(leaf: Node) -> bool:
    """Whether a layer is a convolution of odd width over a map."""
    return leaf.kind == "conv" and len(leaf.weight) == 4 and max(leaf.weight[2:]) > 1 and max(leaf.weight[2:]) % 2 == 1


def is_cross(node: Node) -> bool:
    """Whether keys and values come from elsewhere."""
    return bool(CROSS.search(node.dotted))


def fan_in(node: Node) -> int:
    """Units that a projection reads."""
    if "in_proj_weight" in node.tensors:
        return node.tensors["in_proj_weight"][1][1]
    return node.fan_in


def units(node: Node) -> int:
    """Units that a projection returns."""
    if "in_proj_weight" in node.tensors:
        return node.tensors["in_proj_weight"][1][0]
    return node.units
