"""Attention: which tensors are queries, keys, values and outputs, and how many heads they have.

A head's query and key meet only in a scalar product and its value meets the output projection linearly, so heads may be
exchanged, and the entries of a head may be permuted alike in value and output, and in query and key where no
rotary embedding sets them apart. A claim names one group an axis: the heads where their number is known and they
are alike, otherwise entries within a head.
"""

import re
from math import gcd, lcm

from wsrl.wiring.dims import Dim, Value, fix, size_of, tie, tie_values, view
from wsrl.wiring.flow import Entry, Env, Flow, numbered, run_unknown
from wsrl.wiring.latent_attention import run_latent_attention
from wsrl.wiring.modules import read_value
from wsrl.wiring.tree import Node, Shape, sorted_children

WRAPPERS = {"proj", "conv", "linear", "c", "dense", "m", "convolution", "0", "conv2d", "conv1d"}
ROLES = {
    "qkv": r"(to_|c_|w|attn_|in_)?qkvs?(_proj|_linear)?|in_proj|c_attn|query_key_value|queries_keys_values|in_proj_weight|qkv_mix",
    "kv": r"(to_|w)?kvs?(_proj|_linear)?|key_value|keys_values",
    "qk": r"(to_|w)?qk(_proj)?",
    "q": r"(to_|w|project_|linear_|lin_)?(q|query|queries)(_proj|_lin|_head|_linear|_layer)?",
    "k": r"(to_|w|project_|linear_|lin_)?(k|key|keys)(_proj|_lin|_head|_linear|_layer)?",
    "v": r"(to_|w|project_|linear_|lin_)?(v|value|values)(_proj|_lin|_head|_linear|_layer)?",
    "o": r"(w|attention_|linear_|lin_|to_|c_|attn_|out_|post_)?(o|out|output|proj|projection|dense|merge|fc)(_proj|_lin|_linear|_project|_projection)?|wo|post_proj|proj_out",
}
PATTERNS = {role: re.compile(pattern, re.I) for role, pattern in ROLES.items()}
Q_NORM = re.compile(r"(^|[._])(q|k|query|key|qk)_?(norm|ln|layernorm|layer_norm|a_layernorm)|(norm|ln|layernorm|layer_norm)_?(q|k|query|key|qk)$", re.I)
TABLE = re.compile(r"bias_table|relative_attention_bias|attention_biases|rel_pos_bias|relative_position_bias|pos_bias", re.I)
PER_HEAD = re.compile(r"logit_scale|temperature|sinks?$|proj_l$|proj_w$|head_scale|tau$", re.I)
ROTARY = re.compile(r"rope|rotary", re.I)
ABSOLUTE = re.compile(r"pos_embed|position|wpe|pos_emb|rel_pos|r_kernel|r_w_bias|rel_emb|_pe$|\.pe$|pos_enc|relative|attention_bias|pos_block|cpe|dwconv|conv_dw|sr\.", re.I)
SUB_NORM = re.compile(r"sub_?(layer)?norm|sub_?ln|inner.*(norm|ln)", re.I)
BY_HEAD = ("queries_keys_values", "keys_values", "query_key_value")
BIAS_MLP = re.compile(r"(bias|meta|cpb|pos|rpe|dpb)\w*_?mlp|rel_pos\.mlp", re.I)
REDUCTION = re.compile(r"(^|[.])(sr|spatial_reduction|sequence_reduction|kv_down|down|pool)", re.I)


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


class Attention:
    """The rule for attention.

    Args:
      config: `config.json`, or empty.
      shapes: of all tensors.
    """

    def __init__(self, config: dict, shapes: dict[str, Shape]):
        self.config = config
        self.rotary = self._rotary(shapes)
        self.alibi = bool(_search(config, "alibi")) or config.get("model_type") in ("mpt", "bloom")
        self.tables: list[tuple[Flow, Node]] = []
        self.shared_tables = any(TABLE.search(name) for name in shapes)
        self.heads: dict[int, list[Dim]] = {}
        self.streams: list[Value] = []
        self.contacts: list[Node] = []
        self.units: set[str] = set()
        self.refused = config.get("model_type") in ("codegen",)

    def _rotary(self, shapes: dict[str, Shape]) -> bool:
        if any(ROTARY.search(name) for name in shapes):
            return True
        if self.config:
            return any(ROTARY.search(key) and value not in (None, False) for key, value in _items(self.config))
        eva = any(re.search(r"attn\.(q_bias|q_proj)", name) for name in shapes)
        return eva or not any(ABSOLUTE.search(name) for name in shapes)

    # finding the parts

    def run(self, flow: Flow, node: Node, env: Env) -> bool | None:
        """Runs a container that is attention; None for any other module."""
        if node.kind != "container":
            return None
        if node.name == "contact_head":
            self.contacts.append(node)
            return True
        latent = run_latent_attention(flow, node, env, (self._config(node) or (0, 0))[0])
        if latent is not None:
            return latent
        parts = self._parts(node)
        if parts is not None:
            return self._run(flow, node, env, *parts)
        listed = self._listed_heads(node)
        if listed is not None:
            return self._run_listed_heads(flow, env, *listed)
        return run_unknown(flow, node, env) if self._looks_like_attention(node) else None

    def _listed_heads(self, node: Node) -> tuple[list[Node], Node] | None:
        """Heads that are modules of a list, and the projection that reads them side by side."""
        lists = [child for child in node.children.values() if numbered(child)]
        outs = [child for child in node.children.values() if child.kind == "linear" and role_of(child.name) == "o"]
        if len(lists) != 1 or len(outs) != 1 or len(node.children) != 2:
            return None
        heads = sorted_children(lists[0])
        parts = [self._parts(head) for head in heads]
        if any(found is None or "o" in found[0] or "v" not in found[0] for found in parts):
            return None
        width = sum(_units(found[0]["v"]) for found in parts if found)
        return (heads, outs[0]) if width == _fan_in(outs[0]) else None

    def _run_listed_heads(self, flow: Flow, env: Env, heads: list[Node], out: Node) -> bool:
        value: Value = ()
        for head in heads:
            own = Env(env)
            if not self.run(flow, head, own):
                return False
            value += tuple(dim for entry in own.entries for dim in entry.value)
        result = (Dim(_units(out)),)
        self._weight(flow, out, value, result)
        flow.note(out, "attention")
        env.add(result)
        return True

    def _looks_like_attention(self, node: Node) -> bool:
        """Whether queries, keys and values lie side by side here, but with more than is understood."""
        roles = [role_of(child.name) for child in node.children.values() if child.kind != "parameter"]
        layered = [child for child in node.children.values() if any(c.kind in ("linear", "conv") for c in child.leaves())]
        found = {role for role in roles if role and role != "o"}
        names = " ".join(child.name for child in node.children.values())
        if re.search(r"(^|_)quer", names) and re.search(r"(^|_)key", names):
            found |= {"q", "k"}
        words = {word for child in node.children for word in re.split(r"[_\d]+", child.lower())}
        if {"q", "k", "v"} <= words:
            found |= {"q", "k"}
        lone_values = found == {"v"} and "o" in roles
        return bool({"q", "k"} <= found or {"q", "kv"} <= found or {"qkv"} <= found or {"qk"} <= found or lone_values) and bool(layered)

    def _parts(self, node: Node) -> tuple[dict[str, Node], list[Node]] | None:
        if "in_proj_weight" in node.tensors:
            out = node.children.get("out_proj")
            return ({"qkv": node, "o": out}, []) if out else None
        base = len(node.path)
        leaves = [leaf for leaf in node.leaves() if leaf is not node]
        if not 2 <= len(leaves) <= 40:
            return None
        found: dict[str, list[Node]] = {}
        rest = []
        for leaf in leaves:
            relative = ".".join(leaf.path[base:])
            role = role_of(relative) if leaf.kind in ("linear", "conv") and len(leaf.path) - base <= 3 else None
            (found.setdefault(role, []) if role else rest).append(leaf)
        counts = {role: len(nodes) for role, nodes in found.items()}
        sets = ({"qkv"}, {"q", "k", "v"}, {"q", "kv"}, {"qk", "v"})
        if not any(set(counts) - {"o"} == s for s in sets) or any(n > 1 for n in counts.values()):
            return None
        if any(leaf.kind in ("linear", "conv") and not self._harmless(leaf, base) for leaf in rest):
            return None
        return {role: nodes[0] for role, nodes in found.items()}, rest

    def _harmless(self, leaf: Node, base: int) -> bool:
        relative = ".".join(leaf.path[base:])
        heads = (self._config(leaf) or (0, 0))[0]
        along_heads = leaf.kind == "conv" and leaf.weight[:2] == (heads, 1)
        known = (REDUCTION, PER_HEAD, TABLE, BIAS_MLP)
        return along_heads or any(pattern.search(relative) for pattern in known)

    # running it

    def _run(self, flow: Flow, node: Node, env: Env, parts: dict[str, Node], rest: list[Node]) -> bool:
        first = parts.get("q") or parts.get("qkv") or parts["qk"]
        source = parts.get("k") or parts.get("kv") or parts.get("qkv") or parts["qk"]
        read = read_value(flow, first, env, _fan_in(first))
        if read is None:
            return False
        memory = read if _fan_in(source) == _fan_in(first) and not _cross(node) else read_value(flow, source, env, _fan_in(source))
        if memory is None:
            return False
        self.streams.append(read)
        self.units |= {tensor for leaf in node.leaves() for tensor, _ in leaf.tensors.values()}
        widths = self._widths(parts)
        by_head = any(self._rows_by_head(leaf, rest) and leaf.name != "query_key_value" for leaf in parts.values())
        unsure = env.is_unknown() and first.kind == "conv"  # it may be grouped
        if widths is None or self.refused or by_head or unsure:
            return self._give_up(flow, node, env, parts, rest, read, memory)
        q, k, v = (Dim(n) for n in widths)
        self._attach(flow, parts, read, memory, q, k, v, node)
        self._structure(flow, node, q, k, v, parts, rest, read)
        self._bias_mlp(flow, [leaf for leaf in rest if BIAS_MLP.search(leaf.dotted)], q)
        for leaf in rest:
            self._rest(flow, node, leaf, env, parts, read, memory, q, k, v)
        flow.note(first, "attention")
        for leaf in parts.values():
            flow.note(leaf, "attention")
        if "o" not in parts:
            env.add((v_out(v, q),), heads=True)
            return True
        out = (Dim(_units(parts["o"])),)
        self._weight(flow, parts["o"], (v_out(v, q),), out)
        if size_of(out) == size_of(read):
            tie_values(out, read)
        env.add(out)
        return True

    def _give_up(
        self, flow: Flow, node: Node, env: Env, parts: dict[str, Node], rest: list[Node], read: Value, memory: Value
    ) -> bool:
        """Attaches what goes in and out of attention whose heads are not understood, or lie one by one in fused rows."""
        counts = self._head_counts(flow, node, rest, *(2 * [Dim(_fan_in(parts["o"]) if "o" in parts else 1)]))
        inner = {role: _units(leaf) for role, leaf in parts.items() if role != "o"}
        width = _fan_in(parts["o"]) if "o" in parts else 0
        heads = next(iter(counts)) if len(counts) == 1 else 0
        cached = any("attention_biases" in leaf.dotted for leaf in rest)  # LeViT's code keeps an indexed copy of them
        by_head = heads > 1 and not cached and width and not any(n % heads for n in (width, *inner.values())) and not self.refused
        by_head = by_head and all(self._rows_by_head(parts[r], rest) for r in inner if len(r) > 1)
        group = Dim(heads) if by_head else None
        out = (Dim(_units(parts["o"])),) if "o" in parts else (Dim(1, fixed=True),)

        def rows(size: int) -> Value:
            return (view(group, inner=size // heads),) if group else (Dim(size, fixed=True),)

        if group:
            self.heads.setdefault(heads, []).append(group)
        else:
            flow.warnings.append(f"the heads of {node.dotted} are not understood")
        for role, leaf in parts.items():
            inputs = memory if role in ("k", "v", "kv") else read
            value = rows(inner[role]) if role != "o" else out
            self._weight(flow, leaf, inputs if role != "o" else rows(width), value)
            for other in rest:
                beside = other.path[:-1] == leaf.path[:-1] and len(other.path) > len(node.path) + 1
                if beside and other.kind == "norm" and max(s[0] for _, s in other.tensors.values() if s) == size_of(value):
                    flow.put_vectors(other, value, skip=())
                    flow.note(other, "norm")
        for leaf in rest:
            if TABLE.search(leaf.dotted) and group:
                for tensor, shape in leaf.tensors.values():
                    axis = 0 if "attention_biases" in leaf.name else len(shape) - 1
                    if len(shape) == 2 and shape[axis] == heads:
                        flow.put(tensor, axis, (group,))
            elif not any(any(flow.axes[tensor]) for tensor, _ in leaf.tensors.values()):
                for _tensor, shape in leaf.tensors.values():
                    for value in (read, memory, out):
                        if size_of(value) in shape:
                            fix(value)
        if "o" not in parts:
            flow.lost(env, node)
            return True
        if size_of(out) == size_of(read):
            tie_values(out, read)
        env.add(out)
        return True

    def _rows_by_head(self, leaf: Node, rest: list[Node]) -> bool:
        """Whether fused rows lie head by head: LeViT and its like, and convolutions beside tables of biases (MaxViT)."""
        names = {leaf.name, leaf.parent.name if leaf.parent else ""}
        tables = any("relative_position_bias_table" in other.dotted for other in rest)
        halo = leaf.name == "kv" and any("height_rel" in other.dotted for other in rest)
        return halo or bool(names & set(BY_HEAD)) or (leaf.name == "qkv" and leaf.kind == "conv" and tables)

    def _widths(self, parts: dict[str, Node]) -> tuple[int, int, int] | None:
        """Units of query, key and value."""
        inner = _fan_in(parts["o"]) if "o" in parts else None
        if "q" in parts and "k" in parts:
            return _units(parts["q"]), _units(parts["k"]), _units(parts["v"])
        if "q" in parts:
            q, kv = _units(parts["q"]), _units(parts["kv"])
            return (q, kv // 2, kv // 2) if kv % 2 == 0 and (inner is None or inner % (kv // 2) == 0) else None
        if "qk" in parts:
            return _units(parts["qk"]) // 2, _units(parts["qk"]) // 2, _units(parts["v"])
        total = _units(parts["qkv"])
        inner = inner or (total // 3 if total % 3 == 0 else None)
        if inner is None:
            return None
        if total == 3 * inner:
            return inner, inner, inner
        config = self._config(parts["qkv"])
        heads, kv_heads = config if config else (0, 0)
        if heads and inner % heads == 0 and total == inner + 2 * (inner // heads):
            return inner, inner // heads, inner // heads  # one key and value for all heads
        if heads and inner % heads == 0 and total == inner + 2 * kv_heads * (inner // heads):
            return inner, kv_heads * (inner // heads), kv_heads * (inner // heads)
        return None

    def _weight(self, flow: Flow, leaf: Node, inputs: Value, outputs: Value) -> None:
        """Attaches a dense layer or convolution."""
        name, shape = leaf.tensors["weight"]
        last = len(shape) - 1
        axis_in, axis_out = (last - 1, last) if leaf.transposed else (1, 0)
        if size_of(inputs) == shape[axis_in]:
            flow.put(name, axis_in, inputs)
        else:  # a grouped convolution
            fix(inputs)
            fix(outputs)
        flow.put(name, axis_out, outputs)
        flow.put_vectors(leaf, outputs)

    def _attach(self, flow: Flow, parts: dict[str, Node], read: Value, memory: Value, q: Dim, k: Dim, v: Dim, node: Node) -> None:
        if "qkv" in parts and parts["qkv"] is node:
            name = node.tensors["in_proj_weight"][0]
            flow.put(name, 0, (q, k, v))
            flow.put(name, 1, read)
            if "in_proj_bias" in node.tensors:
                flow.put(node.tensors["in_proj_bias"][0], 0, (q, k, v))
            return
        for role, leaf in parts.items():
            if role == "o":
                continue
            value = {"q": (q,), "k": (k,), "v": (v,), "kv": (k, v), "qk": (q, k), "qkv": (q, k, v)}[role]
            if role == "qkv" and self._interleaves(parts) and k.size * (self._config(leaf) or (0, 0))[0] != q.size:
                value = (self._interleaved(q, k, v, leaf),)
            self._weight(flow, leaf, memory if role in ("k", "v", "kv") else read, value)

    def _interleaved(self, q: Dim, k: Dim, v: Dim, leaf: Node) -> Dim:
        """Fused rows that lie head by head: [kv heads, queries + key + value, dim]."""
        heads = (self._config(leaf) or (0, 0))[0]
        total = q.size + k.size + v.size
        kv_heads = heads * k.size // q.size
        if heads and self.alibi and q.size % heads == 0 and total % (q.size // heads) == 0:
            within = Dim(q.size // heads)  # heads differ in their slopes
            for dim in (q, k, v):
                tie(dim, view(within, outer=dim.size // within.size))
            return view(within, outer=total // within.size)
        if not heads or not kv_heads or total % kv_heads:
            return Dim(total, fixed=True)
        group = Dim(kv_heads)
        for dim in (q, k, v):
            tie(dim, view(group, inner=dim.size // kv_heads))
        return view(group, inner=total // kv_heads)

    # heads

    def _config(self, node: Node) -> tuple[int, int] | None:
        """(heads, key-value heads) that `config.json` tells for the part of the network where a module lies."""
        path = node.dotted.lower()
        scopes = [self.config]
        for key, value in self.config.items():
            if isinstance(value, dict) and key.endswith("_config"):
                stem = key.removesuffix("_config")
                if re.search(rf"(^|[._]){stem}|{ {'vision': 'image|visual', 'text': 'language'}.get(stem, 'no such') }", path):
                    scopes.insert(0, value)
        side = "decoder" if "decoder" in path else "encoder"
        for scope in scopes:
            for key in (f"{side}_attention_heads", f"num_{side}_attention_heads", f"{side}_num_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads"):
                heads = scope.get(key)
                if isinstance(heads, int) and heads > 0:
                    kv = next((scope[k] for k in ("num_key_value_heads", "num_kv_heads", f"{side}_num_key_value_heads") if isinstance(scope.get(k), int)), heads)
                    return heads, kv
        return None

    def _head_counts(self, flow: Flow, node: Node, rest: list[Node], q: Dim, k: Dim) -> set[int]:
        """Numbers of query heads that fit what the file says; empty if it says nothing."""
        counts = set()
        offsets = [leaf for leaf in rest if leaf.kind == "linear" and BIAS_MLP.search(leaf.dotted)]
        if offsets:
            counts.add(_units(offsets[-1]))
        for leaf in rest:
            for field, (_tensor, shape) in leaf.tensors.items():
                long = [n for n in shape if n > 1]
                if PER_HEAD.search(leaf.dotted) and long:
                    counts.add(long[0])
                elif TABLE.search(leaf.dotted) and len(shape) == 2 and field in ("weight", "value"):
                    counts.add(shape[0] if "attention_biases" in leaf.name else shape[1])
                elif Q_NORM.search(leaf.dotted) and len(long) == 1 and long[0] < k.size and k.size % long[0] == 0:
                    counts.add(q.size // long[0])
                elif re.search(r"rel_pos_[hw]$|(height|width)_rel$", leaf.dotted):
                    counts.add(q.size // shape[-1])
        counts = {n for n in counts if n and q.size % n == 0}
        config = self._config(node)
        if config and not counts:
            counts = {config[0]} if q.size % config[0] == 0 and k.size % (q.size // config[0]) == 0 else set()
        return counts

    def _structure(self, flow: Flow, node: Node, q: Dim, k: Dim, v: Dim, parts: dict[str, Node], rest: list[Node], read: Value) -> None:
        counts = self._head_counts(flow, node, rest, q, k)
        out_width = _fan_in(parts["o"]) if "o" in parts else v.size
        if self._interleaves(parts) and q.find()[1:] != (1, 1):
            return  # already tied by its rows
        if counts:
            heads = gcd(*counts)
            dim_q, repeat = q.size // heads, q.size // k.size if k.size else 1
            kv_heads = heads // repeat if repeat and heads % repeat == 0 else 0
            # LeViT's code keeps an indexed copy of its biases, so that new ones in a file may not reach the heads
            exact = len(counts) == 1 and not any("attention_biases" in leaf.dotted for leaf in rest)
            mixed = (".rel_pos.", "attention_biases")
            either = "qkv" in parts and any(word in leaf.dotted for word in mixed for leaf in rest)  # part by part or head by head
            exact = exact and not either
            if exact and kv_heads > 1 and not self.alibi and v.size % kv_heads == 0 and k.size % kv_heads == 0 and q.size % k.size == 0:
                group = Dim(kv_heads)
                for dim in (q, k, v):
                    tie(dim, view(group, inner=dim.size // kv_heads))
                self.heads.setdefault(heads, []).append(group)
                return
            self._within(q, k, v, dim_q, out_width)
            if either and not self.rotary and q.size == v.size:
                tie(q.find()[0], v.find()[0])
            elif either:
                fix((q, k, v))
            return
        if any(n % 16 for n in (q.size, k.size, v.size)):
            fix((q, k, v))
            return
        self._within(q, k, v, 4, out_width)
        if "qkv" in parts and not self.rotary:  # true whether the fused rows lie part by part or head by head
            tie(q.find()[0], v.find()[0])

    def _within(self, q: Dim, k: Dim, v: Dim, dim: int, out_width: int) -> None:
        """Permutes entries within each head alike."""
        del out_width
        if v.size % dim == 0 and v.size // dim >= 1 and dim > 1:
            tie(v, view(Dim(dim), outer=v.size // dim))
        else:
            fix((v,))
        if self.rotary or q.size % dim or k.size % dim or dim < 2:
            fix((q, k))
        else:
            shared = Dim(dim)
            tie(q, view(shared, outer=q.size // dim))
            tie(k, view(shared, outer=k.size // dim))

    def _interleaves(self, parts: dict[str, Node]) -> bool:
        return "qkv" in parts and parts["qkv"].name == "query_key_value"

    # what else lies in attention

    def _rest(self, flow: Flow, node: Node, leaf: Node, env: Env, parts: dict[str, Node], read: Value, memory: Value, q: Dim, k: Dim, v: Dim) -> None:
        relative = ".".join(leaf.path[len(node.path):])
        flow.note(leaf, "norm" if leaf.kind == "norm" else "parameter")
        if BIAS_MLP.search(leaf.dotted):
            return
        if re.search(r"pool_[qkv]|norm_v", relative):  # of each head
            fix((q, k, v))
        elif re.search(r"pos_embed", relative) and all(s[-1] == size_of(read) != q.find()[2] for _, s in leaf.tensors.values()):
            for tensor, shape in leaf.tensors.values():
                flow.put(tensor, len(shape) - 1, read)
        elif TABLE.search(leaf.dotted) or PER_HEAD.search(leaf.dotted) or (leaf.kind == "conv" and leaf.weight[1] == 1 and leaf.weight[0] < size_of(read)):
            self._per_head(flow, leaf, q)
        elif re.fullmatch(r"[qkv]_?bias", leaf.name) and leaf.kind == "parameter":
            tensor, shape = leaf.tensors["value"]
            dim = {"q": q, "k": k, "v": v}[leaf.name[0]]
            if shape == (dim.size,):
                flow.put(tensor, 0, (dim,))
            else:
                fix((dim,))
        elif leaf.kind == "norm":
            self._norm(flow, node, leaf, relative, parts, read, memory, q, k, v)
        elif REDUCTION.search(relative) and leaf.kind in ("linear", "conv"):
            name, shape = leaf.tensors["weight"]
            if shape[0] == size_of(read) == shape[1]:
                self._weight(flow, leaf, memory, memory)
            elif shape[1] == 1 and shape[0] == size_of(read):
                flow.put(name, 0, memory)
                flow.put_vectors(leaf, memory)
            else:
                fix(memory)
        elif re.search(r"rel_pos|height_rel|width_rel|pos_emb", leaf.dotted):
            for tensor, shape in leaf.tensors.values():
                self._within_table(flow, tensor, shape, q, k)
        else:
            for _tensor, shape in leaf.tensors.values():
                for n in shape:
                    for value in ((q,), (k,), (v,), read, memory):
                        if n > 1 and (n == size_of(value)):
                            fix(value)
                    if n > 1:
                        for dim in (q, k, v):
                            if n == dim.find()[0].size or n == dim.find()[2]:
                                fix((dim,))

    def _bias_mlp(self, flow: Flow, leaves: list[Node], q: Dim) -> None:
        """A small network that computes an offset a head from relative positions."""
        before: Value | None = None
        for leaf in leaves:
            if leaf.kind != "linear":
                if before is not None and leaf.kind == "norm":
                    flow.put_vectors(leaf, before, skip=())
                continue
            name, shape = leaf.tensors["weight"]
            if before is not None and size_of(before) == shape[1]:
                flow.put(name, 1, before)
            elif before is not None:
                fix(before)
            root, outer, inner = q.find()
            last = leaf is [x for x in leaves if x.kind == "linear"][-1]
            if last and outer == 1 and root.size == shape[0]:
                before = (view(root),)
            elif last:
                before = (Dim(shape[0], fixed=True),)
                fix((q,)) if outer == 1 else None
            else:
                before = (Dim(shape[0]),)
            flow.put(name, 0, before)
            flow.put_vectors(leaf, before)
            flow.note(leaf, "linear")

    def _within_table(self, flow: Flow, tensor: str, shape: Shape, q: Dim, k: Dim) -> None:
        """A table of relative positions [places, dim] that queries meet: fixed within heads, the same for all."""
        for dim in (q, k):
            root, _outer, inner = dim.find()
            if inner != shape[-1]:
                root.fixed = True

    def _per_head(self, flow: Flow, leaf: Node, q: Dim) -> None:
        root, outer, inner = q.find()
        for tensor, shape in leaf.tensors.values():
            for axis, n in enumerate(shape):
                if n > 1 and outer == 1 and n % root.size == 0 and inner % (n // root.size) == 0:
                    heads = view(root, inner=n // root.size)
                    if TABLE.search(leaf.dotted) and axis != (0 if "attention_biases" in leaf.name else len(shape) - 1):
                        continue
                    flow.put(tensor, axis, (heads,))

    def _norm(self, flow: Flow, node: Node, leaf: Node, relative: str, parts: dict[str, Node], read: Value, memory: Value, q: Dim, k: Dim, v: Dim) -> None:
        size = max((max(shape, default=1) for _, shape in leaf.tensors.values()), default=1)
        if SUB_NORM.search(leaf.name):
            flow.put_vectors(leaf, (v_out(v, q),), skip=()) if size == v_out(v, q).size else fix((v, *read))
            return
        if Q_NORM.search(relative) and re.search(r"\d", relative):  # a norm for each head
            fix((q, k))
            return
        if Q_NORM.search(relative):
            own = q if re.search(r"q", leaf.name + relative.split(".")[0], re.I) and not re.search(r"(^|_)k(_|$|n)|key", relative, re.I) else k
            if size == own.size:
                flow.put_vectors(leaf, (own,), skip=())
                return
            root, outer, inner = own.find()
            if own.size % size == 0 and inner % size == 0:
                return  # one norm for all heads, which are whole blocks of the group
            if own.size % size == 0 and size % (root.size * inner) == 0:
                shared = view(root, outer=size // (root.size * inner), inner=inner)
                flow.put_vectors(leaf, (shared,), skip=())
                return
            fix((q, k))
            return
        beside = {p.path[:-1] for p in parts.values()}
        block = node.parent.children.values() if node.parent else ()
        outer_norms = any(c.kind == "norm" and c.weight[-1:] == (size_of(read),) for c in block if "weight" in c.tensors)
        inner_norm = re.fullmatch(r"norm|inner_attn_ln|sub_norm|subln|ln", leaf.name) and leaf.path[:-1] in beside
        inner_norm = inner_norm and (outer_norms or size != size_of(read))
        reduces = any(REDUCTION.search(".".join(x.path[len(node.path):])) for x in node.leaves() if x.kind in ("conv", "linear"))
        belongs = parts.get("q") or parts.get("qkv")
        for role, part in parts.items():
            alone = sum(leaf.path[:-1] == other.path[:-1] for other in parts.values()) == 1
            if alone and leaf.path[:-1] == part.path[:-1] and len(part.path) > len(node.path) + 1 and role != "o":
                self._part_norm(flow, leaf, role, size, read, q, k, v)
                return
            if leaf.path[:-1] == part.path[:-1] and role == "o" and size == _units(part) and len(part.path) > len(node.path) + 1:
                out = flow.axes[part.tensors["weight"][0]][0]
                flow.put_vectors(leaf, read if size == size_of(read) else out or read, skip=())
                return
        del belongs
        if size == size_of(read) and not (inner_norm and not reduces and "qkv" in parts):
            flow.put_vectors(leaf, read, skip=())
            if memory is not read and size == size_of(memory):
                tie_values(read, memory)
        elif size == size_of(memory) and memory is not read:
            flow.put_vectors(leaf, memory, skip=())
        elif size == v.size and not reduces:
            flow.put_vectors(leaf, (v,), skip=())
            if size == size_of(read):
                fix(read)
        else:
            fix((q, k, v, *read, *memory))

    def _part_norm(self, flow: Flow, leaf: Node, role: str, size: int, read: Value, q: Dim, k: Dim, v: Dim) -> None:
        value = {"q": (q,), "k": (k,), "v": (v,), "kv": (k, v), "qk": (q, k), "qkv": (q, k, v)}[role]
        if size == size_of(value):
            flow.put_vectors(leaf, value, skip=())
        else:
            fix((q, k, v))

    def unordered(self, flow: Flow) -> bool:
        """Whether there is attention but no sign of positions: they may be a fixed code that is not in the file."""
        if not self.streams or self.alibi or any(ABSOLUTE.search(name) for name in flow.shapes):
            return False
        if self.config:
            return not self.rotary and not any("A_log" in name or "time_" in name for name in flow.shapes)
        return True

    def finish(self, flow: Flow) -> None:
        """Ties the heads of all layers where tables of relative positions may be shared between them."""
        for node in self.contacts:
            self._contacts(flow, node)
        if not self.shared_tables:
            return
        for tensor, shape in flow.shapes.items():
            if TABLE.search(tensor) and len(shape) == 2 and tensor not in self.units:
                for heads, groups in self.heads.items():
                    axes = [axis for axis in (0, 1) if shape[axis] == heads == groups[0].size]
                    if len(axes) == 1:
                        flow.put(tensor, axes[0], (groups[0],))
                    elif axes:
                        fix(groups)
        for groups in self.heads.values():
            by_size: dict[int, Dim] = {}
            for group in groups:
                tie(by_size.setdefault(group.size, group), group)


    def _contacts(self, flow: Flow, node: Node) -> None:
        """A regression that reads the attention of all heads of all layers (ESM)."""
        for leaf in node.leaves():
            weight = leaf.tensors.get("weight")
            for groups in self.heads.values():
                if weight and len(weight[1]) == 2 and weight[1][1] == sum(g.size for g in groups):
                    flow.put(weight[0], 1, tuple(groups))
                    flow.note(leaf, "linear")
                    break
            else:
                fix([g for groups in self.heads.values() for g in groups])


def v_out(v: Dim, q: Dim) -> Dim:
    """What the output projection reads: one value a query head."""
    if v.size == q.size or q.size % v.size:
        return v
    root, outer, inner = v.find()
    repeat = q.size // v.size
    if outer == 1 and inner > 1:
        return view(root, inner=inner * repeat)
    return view(root, outer=outer * repeat, inner=inner)


def _fan_in(node: Node) -> int:
    if "in_proj_weight" in node.tensors:
        return node.tensors["in_proj_weight"][1][1]
    return node.weight[-2] if node.transposed else node.weight[1]


def _units(node: Node) -> int:
    if "in_proj_weight" in node.tensors:
        return node.tensors["in_proj_weight"][1][0]
    return node.weight[-1] if node.transposed else node.weight[0]


def _grouped(node: Node) -> None:
    return None


def _cross(node: Node) -> bool:
    from wsrl.wiring.flow import CROSS

    return bool(CROSS.search(node.dotted))


def _items(config: dict) -> list[tuple[str, object]]:
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


def _search(config: dict, word: str) -> bool:
    return any(word in key and value for key, value in _items(config))


__all__ = ["Attention", "Entry", "lcm", "role_of"]
