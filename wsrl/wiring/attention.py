"""Attention: multi-head or grouped-query, fused or not, with relative positions, norms and reductions."""

import re

from wsrl.wiring.attention_config import Settings
from wsrl.wiring.attention_extras import is_harmless, note_attention, put_extras, put_weight
from wsrl.wiring.attention_heads import (
    TABLE,
    Site,
    counts_of_heads,
    cut_into_heads,
    gated_queries,
    interleaved,
    interleaves,
    products_of,
    rows_by_head,
    turned,
    widths,
)
from wsrl.wiring.attention_roles import (
    convolves_places,
    fan_in,
    is_cross,
    listed_heads,
    looks_like_attention,
    sort_by_role,
    units,
)
from wsrl.wiring.dims import Dim, Value, fix, size_of, tie, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.head_axes import run_head_axes
from wsrl.wiring.latent_attention import run_latent_attention
from wsrl.wiring.reading import read_value
from wsrl.wiring.rim import run_rim
from wsrl.wiring.separable_attention import is_separable, wire_separable
from wsrl.wiring.tree import Node, Shape
from wsrl.wiring.values import Env
from wsrl.wiring.wiring import Fact, Product

STREAM = re.compile(r"(?<=[._])(txt|text|img|image|context|ctx|x)_(?=attn|attention|block)", re.I)


class Attention:
    """The rule for attention.

    Args:
      config: `config.json`, or empty.
      shapes: of all tensors.

    Attributes:
      streams: what attention layers read.
      products: of all layers.
    """

    def __init__(self, config: dict, shapes: dict[str, Shape]):
        self.settings = Settings(config, shapes)
        self.streams: list[Value] = []
        self.products: list[Product] = []
        self._shared_tables = any(TABLE.search(name) for name in shapes)
        self._heads: dict[int, list[Dim]] = {}  # groups of heads, by the number of query heads
        self._shared: dict[tuple[int, int], int] = {}  # heads of layers with tables of positions, by their widths
        self._contacts: list[Node] = []
        self._grouped = False  # whether queries share keys, which came after fixed position codes
        self._streams: dict[str, tuple[Dim, Dim, Dim]] = {}  # query, key and value, by paths without names of streams
        self._roles: dict[Node, tuple[dict[str, Node], list[Node]] | None] = {}
        self._tensors: set[str] = set()  # of attention layers
        self._on_maps = False  # whether all blocks with attention have convolutions over places, which tell them apart

    def run(self, flow: Flow, node: Node, env: Env) -> bool | None:
        """Runs a container that is attention; None for any other module."""
        if node.kind != "container":
            return None
        if node.name == "contact_head":
            self._contacts.append(node)
            return True
        heads = (self.settings.heads(node) or (0, 0))[0]
        latent = run_latent_attention(flow, node, env, heads)
        if latent is not None:
            return latent
        by_axes = run_head_axes(flow, node, env, self.settings.rotary)
        if by_axes is not None:
            self.streams += [by_axes[1]] if by_axes[0] else []
            return by_axes[0]
        if node not in self._roles:
            self._roles[node] = sort_by_role(node)
        found = self._roles[node]
        layers = [leaf for leaf in found[1] if leaf.kind in ("linear", "conv")] if found else []
        slopes = "retention" in node.dotted.lower()  # heads differ in fixed decays
        if found and not slopes and all(is_harmless(leaf, len(node.path), heads) for leaf in layers):
            return self._run(flow, node, env, *found)
        listed = listed_heads(node)
        if listed is not None:
            return self._run_listed_heads(flow, env, *listed)
        return run_rim(flow, node, env) if looks_like_attention(node) else None

    def _run(self, flow: Flow, node: Node, env: Env, parts: dict[str, Node], rest: list[Node]) -> bool:
        first = parts.get("q") or parts.get("qkv") or parts["qk"]
        source = parts.get("k") or parts.get("kv") or parts.get("qkv") or parts["qk"]
        read = read_value(flow, first, env, fan_in(first))
        if read is None:
            return False
        same = fan_in(source) == fan_in(first) and not is_cross(node)
        memory = read if same else read_value(flow, source, env, fan_in(source))
        if memory is None:
            return False
        self._on_maps = (self._on_maps or not self.streams) and convolves_places(node)
        self.streams.append(read)
        self._tensors |= {tensor for leaf in node.leaves() for tensor, _ in leaf.tensors.values()}
        if is_separable(parts) and not rest:
            result = wire_separable(flow, parts, read)
            if size_of(result) == size_of(read):
                tie_values(result, read)
            env.add(result)
            return True
        site = Site(flow, node, parts, rest, read, memory)
        sizes = widths(parts, self.settings)
        by_head = any(rows_by_head(leaf, rest) and leaf.name != "query_key_value" for leaf in parts.values())
        unsure = env.is_unknown() and first.kind == "conv"  # it may be grouped
        if sizes is None or self.settings.refused or by_head or unsure:
            return self._run_whole_heads(site, env)
        site.q, site.k, site.v = (Dim(n) for n in sizes)
        self._grouped |= same and site.k.size < site.q.size
        self._join_streams(site)
        self._put_projections(site)
        widths_of = site.q.size, site.k.size
        if parts.get("q", node).name == "linear_q" and turned(site, self.settings) and not rest:
            fix(read)  # conformers turn what queries and keys are computed from
        heads = cut_into_heads(site, self.settings, self._shared.get(widths_of))
        if heads and any(TABLE.search(leaf.dotted) for leaf in rest):
            self._shared.setdefault(widths_of, heads)
        if site.heads is not None:
            self._heads.setdefault(heads, []).append(site.heads)
        if gated_queries(parts):
            self._put_gated_queries(site)
        put_extras(site)
        note_attention(site, self._heads_as_facts(site, heads))
        if "o" not in parts:
            env.add((site.result,), heads=True)
            return True
        out = (Dim(units(parts["o"])),)
        put_weight(flow, parts["o"], (site.result,), out)
        self.products += products_of(site, heads, self.settings)
        if size_of(out) == size_of(read):
            tie_values(out, read)
        env.add(out)
        return True

    def _join_streams(self, site: Site) -> None:
        """Ties the heads of layers that differ in the name of a stream alone, for they may attend to both jointly
        (Esser et al., 2024)."""
        path = STREAM.sub("", site.node.dotted)
        if path == site.node.dotted:
            return
        own = site.q, site.k, site.v
        other = self._streams.setdefault(path, own)
        for a, b in zip(own, other, strict=True):
            if a.size == b.size:
                tie(a, b)
            else:
                fix((*own, *other))

    def _heads_as_facts(self, site: Site, heads: int) -> dict[str, Fact]:
        """Numbers of heads, and of those of keys and values, where they are known exactly."""
        if site.heads is None:
            told = self.settings.heads(site.node)
            if told is None or site.q.size * told[1] != site.k.size * told[0]:
                return {}
            return {name: Fact(n, "config") for name, n in zip(("heads", "key_value_heads"), told, strict=True)}
        source = "config" if self.settings.heads(site.node) else "shapes"
        return {"heads": Fact(heads, source), "key_value_heads": Fact(site.heads.size, source)}

    def _put_projections(self, site: Site) -> None:
        """Says what queries, keys and values read and return."""
        flow, node = site.flow, site.node
        if site.parts.get("qkv") is node:
            flow.writes(node.tensors["in_proj_weight"][0], 0, site.rows("qkv"))
            flow.reads(node.tensors["in_proj_weight"][0], 1, site.read)
            if "in_proj_bias" in node.tensors:
                flow.writes(node.tensors["in_proj_bias"][0], 0, site.rows("qkv"))
            return
        for role, leaf in site.parts.items():
            if role == "o":
                continue
            rows = site.rows(role)
            heads = (self.settings.heads(leaf) or (0, 0))[0]
            if role == "q" and gated_queries(site.parts):
                continue
            if role == "qkv" and interleaves(site.parts, self.settings) and site.k.size * heads != site.q.size:
                rows = (interleaved(site, self.settings),)
            put_weight(flow, leaf, site.memory if role in ("k", "v", "kv") else site.read, rows)

    @staticmethod
    def _put_gated_queries(site: Site) -> None:
        """Says what the rows of queries hold that lie before the gates of their heads."""
        leaf = site.parts["q"]
        if site.heads is None:
            fix((site.q, site.v))
        rows = view(site.heads, inner=units(leaf) // site.heads.size) if site.heads else Dim(units(leaf), fixed=True)
        put_weight(site.flow, leaf, site.read, (rows,))

    def _run_whole_heads(self, site: Site, env: Env) -> bool:
        """Wires what goes in and out of attention whose heads are not understood, or lie one by one in fused rows."""
        flow, parts = site.flow, site.parts
        width = fan_in(parts["o"]) if "o" in parts else 0
        site.q, site.k = Dim(width or 1), Dim(width or 1)
        counts = counts_of_heads(site, self.settings)
        heads = next(iter(counts)) if len(counts) == 1 else 0
        sizes = [units(leaf) for role, leaf in parts.items() if role != "o"]
        fused = [leaf for role, leaf in parts.items() if len(role) > 1]
        cached = any(
            "attention_biases" in leaf.dotted for leaf in site.rest
        )  # LeViT's code keeps an indexed copy of them
        known = (
            heads > 1
            and width
            and not cached
            and not self.settings.refused
            and not any(n % heads for n in (width, *sizes))
        )
        group = Dim(heads) if known and all(rows_by_head(leaf, site.rest) for leaf in fused) else None
        if group:
            self._heads.setdefault(heads, []).append(group)
            site.heads = group
        else:
            flow.warnings.append(f"the heads of {site.node.dotted} are not understood")

        def rows(size: int) -> Value:
            return (view(group, inner=size // heads),) if group else (Dim(size, fixed=True),)

        out = (Dim(units(parts["o"])),) if "o" in parts else (Dim(1, fixed=True),)
        for role, leaf in parts.items():
            value = out if role == "o" else rows(units(leaf))
            reads = rows(width) if role == "o" else site.memory if role in ("k", "v", "kv") else site.read
            put_weight(flow, leaf, reads, value)
            self._norms_beside(site, leaf, value)
        for leaf in site.rest:
            self._extra_of_whole_heads(site, leaf, group, out)
        note_attention(site, self._heads_as_facts(site, heads))
        if "o" not in parts:
            flow.lost(env, site.node)
            return True
        if size_of(out) == size_of(site.read):
            tie_values(out, site.read)
        env.add(out)
        return True

    @staticmethod
    def _norms_beside(site: Site, leaf: Node, value: Value) -> None:
        """Norms that share a container with one projection scale what it returns."""
        for other in site.rest:
            beside = other.path[:-1] == leaf.path[:-1] and len(other.path) > len(site.node.path) + 1
            if beside and other.kind == "norm" and max(s[0] for _, s in other.tensors.values() if s) == size_of(value):
                site.flow.passes_vectors(other, value)

    @staticmethod
    def _extra_of_whole_heads(site: Site, leaf: Node, group: Dim | None, out: Value) -> None:
        if TABLE.search(leaf.dotted) and group:
            for tensor, shape in leaf.tensors.values():
                axis = 0 if "attention_biases" in leaf.name else len(shape) - 1
                if len(shape) == 2 and shape[axis] == group.size:
                    site.flow.passes(tensor, axis, (group,))
        elif not any(any(site.flow.axes[tensor]) for tensor, _ in leaf.tensors.values()):
            for _, shape in leaf.tensors.values():
                for value in (site.read, site.memory, out):
                    if size_of(value) in shape:
                        fix(value)

    def _run_listed_heads(self, flow: Flow, env: Env, heads: list[Node], out: Node) -> bool:
        """Runs heads that are modules of their own, and the projection that reads them side by side."""
        value: Value = ()
        for head in heads:
            own = Env(env)
            if not self.run(flow, head, own):
                return False
            value += tuple(dim for entry in own.entries for dim in entry.value)
        result = (Dim(units(out)),)
        put_weight(flow, out, value, result)
        flow.note(out, "attention", value, result, facts={"part": Fact("o", "names")})
        env.add(result)
        return True

    def unordered(self, reads_tokens: bool) -> bool:
        """Whether there is attention but no sign of positions: they may be a fixed code that is not in the file.

        Args:
          reads_tokens: whether the network begins with an embedding.
        """
        settings = self.settings
        if not self.streams or settings.alibi or settings.positions or self._on_maps:
            return False
        if settings.config:
            return not ((settings.rotary and not settings.other_codes) or settings.recurrent)
        return not (reads_tokens and (settings.modern or self._grouped))

    def finish(self, flow: Flow) -> None:
        """Ties the heads of all layers where tables of relative positions may be shared between them."""
        for node in self._contacts:
            self._put_contacts(flow, node)
        for table in flow.tables:  # projections of a stream may read it as well
            for stream in (*self.streams, *flow.streams):
                if size_of(stream) == size_of(table):
                    tie_values(stream, table)
        if not self._shared_tables:
            return
        for tensor, shape in flow.shapes.items():
            if not TABLE.search(tensor) or len(shape) != 2 or tensor in self._tensors:
                continue
            for heads, groups in self._heads.items():
                axes = [axis for axis in (0, 1) if shape[axis] == heads == groups[0].size]
                if len(axes) == 1:
                    flow.passes(tensor, axes[0], (groups[0],))
                elif axes:
                    fix(groups)
        for groups in self._heads.values():
            by_size: dict[int, Dim] = {}
            for group in groups:
                tie(by_size.setdefault(group.size, group), group)

    def _put_contacts(self, flow: Flow, node: Node) -> None:
        """A regression that reads the attention of all heads of all layers (Rives et al., ESM, 2021)."""
        for leaf in node.leaves():
            name, shape = leaf.tensors.get("weight", ("", ()))
            fits = [g for g in self._heads.values() if len(shape) == 2 and shape[1] == sum(group.size for group in g)]
            if fits:
                flow.reads(name, 1, tuple(fits[0]))
                flow.note(leaf, "linear")
            else:
                fix([group for groups in self._heads.values() for group in groups])
