"""The heads of attention: how many there are, how projections' rows are cut into them, which products they make.

A head's query and key meet only in a scalar product and its value meets the output projection linearly, so heads may be
exchanged, and the entries of a head may be permuted alike in value and output, and in query and key where no
rotary embedding sets them apart. A claim names one group an axis: the heads where their number is known and they
are alike, otherwise entries within a head.
"""

import re
from dataclasses import dataclass, field
from math import gcd

from wsrl.wiring.attention_config import Settings
from wsrl.wiring.attention_roles import BY_HEAD, fan_in, units
from wsrl.wiring.dims import Dim, Value, fix, tie, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.wiring import Product, Slice

TABLE = re.compile(
    r"bias_table|relative_attention_bias|attention_biases|rel_pos_bias|relative_position_bias|pos_bias", re.I
)
PER_HEAD = re.compile(r"logit_scale|temperature|sinks?$|proj_l$|proj_w$|head_scale|tau$", re.I)
BIAS_MLP = re.compile(r"(bias|meta|cpb|pos|rpe|dpb)\w*_?mlp|rel_pos\.mlp", re.I)
Q_NORM = re.compile(
    r"(^|[._])(q|k|query|key|qk)_?(norm|ln|layernorm|layer_norm|a_layernorm)|(norm|ln|layernorm|layer_norm)_?(q|k|query|key|qk)$",
    re.I,
)
CODES = re.compile(r"(^|[.])(linear_pos|relative_k_proj)$")  # reads codes of distances (Transformer-XL, 2019)
TWIN = re.compile(r"(^|[.])(query|key|value|[qkv]_proj)_global$|(^|[.])[we]2[we]_(query)$")  # for some tokens alone
CODE_BIAS = re.compile(r"(pos_)?bias_[uv]")  # [heads, dim], added to queries
BIAS = re.compile(r"[qkv]_?bias")
SMALLEST = 4  # entries of a head that any usual width of heads is a multiple of
SEVERAL = 64  # what widths are a multiple of if up to 16 heads have such a number of entries


@dataclass
class Site:
    """An attention layer that is being wired.

    Attributes:
      parts: projections by role.
      rest: what else lies in it.
      read, memory: what queries read, and what keys and values read.
      q, k, v: units of query, key and value.
      heads: heads that share a key, and queries of each, where their number is known and they are alike.
    """

    flow: Flow
    node: Node
    parts: dict[str, Node]
    rest: list[Node]
    read: Value
    memory: Value
    q: Dim = field(default_factory=lambda: Dim(1, fixed=True))
    k: Dim = field(default_factory=lambda: Dim(1, fixed=True))
    v: Dim = field(default_factory=lambda: Dim(1, fixed=True))
    heads: Dim | None = None

    @property
    def result(self) -> Dim:
        """What the output projection reads: one value a query head."""
        if self.v.size == self.q.size or self.q.size % self.v.size:
            return self.v
        root, outer, inner = self.v.find()
        repeat = self.q.size // self.v.size
        if outer == 1 and inner > 1:
            return view(root, inner=inner * repeat)
        return view(root, outer=outer * repeat, inner=inner)

    def rows(self, role: str) -> Value:
        """What the rows of a projection hold, part by part."""
        return tuple({"q": self.q, "k": self.k, "v": self.v}[letter] for letter in role)


def widths(parts: dict[str, Node], settings: Settings) -> tuple[int, int, int] | None:
    """Units of query, key and value; None where fused rows cannot be told apart."""
    inner = fan_in(parts["o"]) if "o" in parts else None
    if "q" in parts and "k" in parts:
        return units(parts["q"]) // (2 if gated_queries(parts) else 1), units(parts["k"]), units(parts["v"])
    if "q" in parts:
        q, kv = units(parts["q"]), units(parts["kv"])
        return (q, kv // 2, kv // 2) if kv % 2 == 0 and (inner is None or inner % (kv // 2) == 0) else None
    if "qk" in parts:
        return units(parts["qk"]) // 2, units(parts["qk"]) // 2, units(parts["v"])
    total = units(parts["qkv"])
    inner = inner or (total // 3 if total % 3 == 0 else None)
    if inner is None:
        return None
    if total == 3 * inner:
        return inner, inner, inner
    heads, shared = settings.heads(parts["qkv"]) or (0, 0)
    for kv_heads in (1, shared) if heads and inner % heads == 0 else ():
        kv = kv_heads * (inner // heads)
        if total == inner + 2 * kv:
            return inner, kv, kv
    return None


def gated_queries(parts: dict[str, Node]) -> bool:
    """Whether queries and gates of the result lie head by head in one projection (Qiu et al., 2025)."""
    return {"q", "k", "v", "o"} == parts.keys() and units(parts["q"]) == 2 * fan_in(parts["o"])


def counts_of_heads(site: Site, settings: Settings, shared: int | None = None) -> set[int]:
    """Numbers of query heads that fit what the file says; empty if it says nothing.

    Args:
      shared: heads of a layer of the same widths whose table of positions may serve this one too.
    """
    q, k, counts = site.q.size, site.k.size, set()
    offsets = [leaf for leaf in site.rest if leaf.kind == "linear" and BIAS_MLP.search(leaf.dotted)]
    if offsets:
        counts.add(units(offsets[-1]))
    for leaf in site.rest:
        for name, (_, shape) in leaf.tensors.items():
            long = [n for n in shape if n > 1]
            if CODE_BIAS.fullmatch(leaf.name) and len(shape) == 2:
                counts.add(shape[0])
            elif PER_HEAD.search(leaf.dotted) and long:
                counts.add(long[0])
            elif TABLE.search(leaf.dotted) and len(shape) == 2 and name in ("weight", "value"):
                counts.add(shape[0] if "attention_biases" in leaf.name else shape[1])
            elif Q_NORM.search(leaf.dotted) and len(long) == 1 and long[0] < k and k % long[0] == 0:
                counts.add(q // long[0])
            elif re.search(r"rel_pos_[hw]$|(height|width)_rel$", leaf.dotted):
                counts.add(q // shape[-1])
    counts = {n for n in counts if n and q % n == 0}
    told = settings.heads(site.node)
    if told and not counts and q % told[0] == 0 and k % (q // told[0]) == 0:
        counts = {told[0]}
    return counts or ({shared} if shared else set())


def cut_into_heads(site: Site, settings: Settings, shared: int | None = None) -> int:
    """Ties query, key and value by their heads; returns the number of heads if the group is the heads, else 0.

    Args:
      shared: see `counts_of_heads`.
    """
    q, k, v = site.q, site.k, site.v
    if interleaves(site.parts, settings):
        if q.find()[1:] != (1, 1):
            return 0  # already tied by its rows
        if settings.heads(site.parts["qkv"]) is None:
            fix((q, k, v))
            return 0
    counts = counts_of_heads(site, settings, shared)
    rotary = turned(site, settings)
    fused = "qkv" in site.parts
    if not counts:
        if any(n % 16 for n in (q.size, k.size, v.size)):
            fix((q, k, v))
            return 0
        if fused and rotary and site.parts["qkv"].name == "c_attn" and not site.parts["qkv"].transposed:
            fix((q, k, v))  # part by part, or head by head (GPT-BigCode)
            return 0
        _tie_within(site, SMALLEST // 2 if q.size % SEVERAL else SMALLEST, rotary)  # as 8 heads of 6 entries
        if fused and not rotary:  # true whether the fused rows lie part by part or head by head
            tie(q.find()[0], v.find()[0])
        return 0
    heads = gcd(*counts)
    repeat, rest = divmod(q.size, k.size)
    groups = heads // repeat if rest == 0 and heads % repeat == 0 else 0
    # LeViT's code keeps an indexed copy of its biases, so that new ones in a file may not reach the heads
    cached = any("attention_biases" in leaf.dotted for leaf in site.rest)
    either = fused and (cached or any(".rel_pos." in leaf.dotted for leaf in site.rest))  # part by part or head by head
    exact = len(counts) == 1 and not cached and not either
    if exact and groups > 1 and not settings.alibi and v.size % groups == 0 and k.size % groups == 0:
        site.heads = Dim(groups)
        for dim in (q, k, v):
            tie(dim, view(site.heads, inner=dim.size // groups))
        return heads
    _tie_within(site, q.size // heads, rotary)
    if either and not rotary and q.size == v.size:
        tie(q.find()[0], v.find()[0])
    elif either:
        fix((q, k, v))
    return 0


def _tie_within(site: Site, dim: int, rotary: bool) -> None:
    """Permutes entries within each head alike."""
    q, k, v = site.q, site.k, site.v
    if v.size % dim == 0 and dim > 1:
        tie(v, view(Dim(dim), outer=v.size // dim))
    else:
        fix((v,))
    if rotary or q.size % dim or k.size % dim or dim < 2:
        fix((q, k))
    else:
        shared = Dim(dim)
        tie(q, view(shared, outer=q.size // dim))
        tie(k, view(shared, outer=k.size // dim))


def interleaves(parts: dict[str, Node], settings: Settings) -> bool:
    """Whether fused rows lie head by head: [key-value heads, queries + key + value, dim]; without a config they may."""
    if "qkv" not in parts:
        return False
    unsure = parts["qkv"].name == "qkv_proj" and not settings.config
    return parts["qkv"].name == "query_key_value" or settings.by_head or unsure


def turned(site: Site, settings: Settings) -> bool:
    """Whether a rotary embedding may turn queries and keys.

    It does not in PyTorch's own attention, nor beside offsets of scores, nor in attention of maps or channels.
    """
    offsets = any(TABLE.search(leaf.dotted) or BIAS_MLP.search(leaf.dotted) for leaf in site.rest)
    maps = any(leaf.kind == "conv" for leaf in site.parts.values()) or "channel" in site.node.dotted
    own = "in_proj_weight" in site.parts.get("qkv", site.node).tensors
    return settings.rotary and not (offsets or maps or own)


def interleaved(site: Site, settings: Settings) -> Dim:
    """Ties query, key and value by fused rows that lie head by head; returns the rows."""
    heads = (settings.heads(site.parts["qkv"]) or (0, 0))[0]
    q, k, v = site.q, site.k, site.v
    total = q.size + k.size + v.size
    shared = heads * k.size // q.size
    if heads and settings.alibi and q.size % heads == 0 and total % (q.size // heads) == 0:
        within = Dim(q.size // heads)  # heads differ in their slopes
        for dim in (q, k, v):
            tie(dim, view(within, outer=dim.size // within.size))
        return view(within, outer=total // within.size)
    if not shared or total % shared:
        return Dim(total, fixed=True)
    group = Dim(shared)
    for dim in (q, k, v):
        tie(dim, view(group, inner=dim.size // shared))
    return view(group, inner=total // shared)


def rows_by_head(leaf: Node, rest: list[Node]) -> bool:
    """Whether fused rows lie head by head: LeViT and its like, halo attention, and convolutions beside tables of biases
    (MaxViT)."""
    if leaf.name == "kv" and any("height_rel" in other.dotted for other in rest):
        return True
    tables = any("relative_position_bias_table" in other.dotted for other in rest)
    names = {leaf.name, leaf.parent.name if leaf.parent else ""}
    return bool(names & BY_HEAD) or (leaf.name == "qkv" and leaf.kind == "conv" and tables)


def products_of(site: Site, heads: int, settings: Settings) -> list[Product]:
    """Value and output of each head, and key and query where nothing lies between them, as products.

    Args:
      heads: of queries; they are exact and alike.
    """
    if settings.clipped or site.heads is None or "o" not in site.parts or fan_in(site.parts["o"]) != site.q.size:
        return []
    shared = site.heads.size
    matrices = all(len(_weight(leaf)[1]) == 2 for leaf in site.parts.values())
    if not matrices or site.v.size * heads != site.q.size * shared:
        return []
    between = [leaf for leaf in site.rest if not _leaves_products(site, leaf)]
    if not all(Q_NORM.search(leaf.dotted) or PER_HEAD.search(leaf.dotted) for leaf in between):
        return []
    if any("temperature" in leaf.name for leaf in between):  # attention between channels (XCiT)
        return []
    out, out_shape = _weight(site.parts["o"])
    axis = 0 if site.parts["o"].transposed else 1
    whole = Slice(out, axis, 0, out_shape[axis])
    value, value_bias = _slices(site, "v")
    found = [Product(value, whole, shared, site.v.size // shared, heads // shared, value_bias)]
    if turned(site, settings) or between:
        return found
    (key, key_bias), (query, query_bias) = _slices(site, "k"), _slices(site, "q")
    return [*found, Product(key, query, shared, site.k.size // shared, heads // shared, key_bias, query_bias)]


def _leaves_products(site: Site, leaf: Node) -> bool:
    """Whether what lies in attention leaves its products alone: offsets of scores, biases, a norm after the output."""
    out = site.parts["o"].path[:-1]
    after = leaf.kind == "norm" and leaf.path[:-1] == out and len(out) > len(site.node.path)
    return after or bool(TABLE.search(leaf.dotted) or BIAS_MLP.search(leaf.dotted) or BIAS.fullmatch(leaf.name))


def _weight(leaf: Node) -> tuple[str, tuple[int, ...]]:
    return leaf.tensors.get("in_proj_weight") or leaf.tensors["weight"]


def _slices(site: Site, letter: str) -> tuple[Slice, Slice | None]:
    """Where the rows of query, key or value lie in a weight and in its bias."""
    role = next(role for role in site.parts if letter in role)
    leaf = site.parts[role]
    sizes = {"q": site.q.size, "k": site.k.size, "v": site.v.size}
    start = sum(sizes[before] for before in role[: role.index(letter)])
    stop = start + sizes[letter]
    rows = Slice(_weight(leaf)[0], 1 if leaf.transposed else 0, start, stop)
    alone = [other for other in site.rest if BIAS.fullmatch(other.name) and other.name[0] == letter]
    if alone:
        return rows, Slice(alone[0].tensors["value"][0], 0, 0, sizes[letter])
    bias = leaf.tensors.get("in_proj_bias") or leaf.tensors.get("bias")
    return rows, bias and Slice(bias[0], 0, start, stop)
