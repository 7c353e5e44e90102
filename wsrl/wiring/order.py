"""In which order modules run, as far as names, numbers and sizes tell."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from wsrl.wiring.tree import Node, natural, sorted_children
from wsrl.wiring.values import Entry

NAMES = 2**14  # that are kept


class Words:
    """A regular expression for names, which recur: what it has found is kept."""

    def __init__(self, pattern: str, flags: re.RegexFlag = re.NOFLAG):
        compiled = re.compile(pattern, flags)
        self.search = lru_cache(maxsize=NAMES)(compiled.search)
        self.fullmatch = lru_cache(maxsize=NAMES)(compiled.fullmatch)


EARLY = Words(
    r"stem|embed|patch|^start|^prenet$|subsampl|^conv_?in$|^inc$|^input|^pre_|first|^wte$|^wpe$|^shared$|^conv_?1$|^tok|proj_in|fc_in|_pre$",
    re.I,
)
LATE = Words(
    r"head|classif|^fc$|^cls$|logits|^pool|^out|^last|^final|^end|proj_out|^lm_|fc_out|aux|conv_out|predict|_post$",
    re.I,
)
INPUTS = Words(r"embed|patch|stem|encoder|vision|audio|image|feature_proj", re.I)
SECOND = Words(r"decod|critic|^up|generator|^dec", re.I)
SIDE = Words(r"down_?sample|shortcut|^skip|^identity|res_?conv|^residual|^proj$|^se$|squeeze|se_|^attn|^ca$|^eca", re.I)
CROSS = Words(r"cross|encoder_attn|encdec|multihead_attn|enc_attn|src_attn|enc_dec|context_att|memory", re.I)
SHORTCUT = Words(
    r"^(down_?sample|shortcut|skip|proj_shortcut|res_?conv|residual_conv|identity_conv|skip_connection)$", re.I
)
FAR = Words(r"decod|head|neck|fus|lateral|fpn|reassemble|reduce|projections|aux|msfa|incre|pool", re.I)
SEVERAL = Words(r"fus|fpn|msfa|neck|lateral|reassemble", re.I)  # may read what several stages return
CODE = Words(r"pos|wpe")
FRONT = Words(r"^conv|feature_(ext|enc)|subsampl|prenet")  # what turns sound into a sequence
GATE = Words(r"^(se\d*|se_module|squeeze\w*|attn\w*|ca|sca|channel_attention|eca)$", re.I)
NARROWS, WIDENS = Words(r"(^|_)(reduce|squeeze)(_|$)", re.I), Words(r"(^|_)expand(_|$)", re.I)
STEM = Words(
    r"(conv|fc|linear|lin|dense|layer|bn|norm|pw|pwconv|hidden|l|fc_|conv_|linear_|batchnorm|layernorm)(\d+)([a-z]?)(?:_\w+)?"
)
SERIES = Words(r"(denseblock|transition)(\d+)")
NORM_STEMS = ("bn", "norm", "batchnorm", "layernorm")


def numbered(node: Node) -> bool:
    """Whether the children are members of a list."""
    return bool(node.children) and all(name.isdigit() for name in node.children)


def waits(node: Node, pending: list[Node]) -> bool:
    """Whether a module still has to run first: of its name with a smaller number, or, where its number leaves out one,
    any without a number (`conv1`, `attention`, `conv3`)."""
    series = SERIES.fullmatch(node.name)
    if series:
        others = [m for other in pending if (m := SERIES.fullmatch(other.name))]
        return any((int(m[2]), m[1]) < (int(series[2]), series[1]) for m in others)
    if node.kind == "norm" and node.parent is not None and len(node.parent.children) == 2:
        size = node.tensors[next(iter(node.tensors))][1][:1]
        layers = [c for c in pending if c.parent is node.parent and c.kind in ("linear", "conv") and not c.transposed]
        return any((c.units,) == size != c.weight[1:2] for c in layers)
    if any(_narrows_for(other, node) or _lies_between(other, node) for other in pending):
        return True
    if CODE.search(node.name) and node.kind in (
        "embedding",
        "container",
    ):  # what codes positions is added to what a front returns
        return any(FRONT.search(c.name) and c.kind != "parameter" and c is not node for c in pending)
    match = STEM.fullmatch(node.name)
    if not match or match[1] in NORM_STEMS or node.parent is None:
        return False
    number = (_number(match[2], node.parent), match[3])
    before = [m for name in node.parent.children if (m := STEM.fullmatch(name)) and m[1] == match[1]]
    gap = (
        1 < number[0] < 10
        and bool(before)
        and not any(_number(m[2], node.parent) in (number[0] - 1, number[0]) and m[0] != match[0] for m in before)
    )
    for other in pending:
        m = STEM.fullmatch(other.name)
        if other is node or other.parent is not node.parent or other.kind == "parameter":
            continue
        if other.kind != "norm" and m and m[1] == match[1] and (_number(m[2], node.parent), m[3]) < number:
            return True
        if gap and not m and not SIDE.search(other.name) and not LATE.search(other.name):
            return True
    return False


def _narrows_for(other: Node, node: Node) -> bool:
    """Whether a layer beside a convolution returns what that may read in groups."""
    if len(node.path) < 2 or other.parent is not node.parent or other is node or node.kind != "conv":
        return False
    grouped = 1 < node.fan_in < node.units and node.units % node.fan_in == 0 and max(node.weight[2:]) > 1
    if not grouped or other.kind != "conv" or max(other.weight[2:]) > 1 or STEM.fullmatch(other.name):
        return False
    return other.units == node.units <= other.fan_in and not runs_later(other, node)


def _lies_between(other: Node, node: Node) -> bool:
    """Whether a convolution beside one that widens what a third has narrowed runs before it (`reduce`, `expand`)."""
    beside = node.parent.children if node.parent is not None and node.kind == "conv" else {}
    if not WIDENS.search(node.name) or not any(map(NARROWS.search, beside)):
        return False
    return other.kind == "conv" and other is not node and other.name in beside and not SHORTCUT.search(other.name)


def runs_later(node: Node, other: Node) -> bool:
    """Whether numbers or letters tell that a module runs after another (`conv_b` after `conv_a`)."""
    mine, its = next(((a, b) for a, b in zip(node.path, other.path, strict=False) if a != b), ("", ""))
    stems = [re.sub(r"\d+|(?<=_)[a-z]$", "", name) for name in (mine, its)]
    return stems[0] == stems[1] and natural(mine) > natural(its)


def _number(digits: str, parent: Node) -> int | float:
    """`fc21` among a few layers is the first of two second ones."""
    return (
        int(digits)
        if len(digits) < 2 or len(parent.children) > 9
        else int(digits[0]) + int(digits[1:]) / 10 ** len(digits)
    )


def zipped(node: Node) -> list[Node] | None:
    """Members of sibling lists of one length, which may run in turns (`embed.0`, `block.0`, `embed.1`, ...)."""
    lists = [c for c in node.children.values() if numbered(c) and len(c.children) > 1 and not LATE.search(c.name)]
    lists = [c for c in lists if not re.search(r"\d$", c.name)]  # `layer1` runs before `layer2`
    if sum(all(m.kind in ("conv", "linear") for m in c.children.values()) for c in lists) > 1:
        return None  # branches beside branches
    same = [c for c in lists if sum(len(c.children) == len(o.children) for o in lists) > 1]
    if len(same) < 2:
        return None
    found = []
    for child in order(node):
        if child not in same:
            found.append((0 if EARLY.search(child.name) else 1_000, len(found), child))
        else:
            found += [(1 + int(name), len(found), member) for name, member in child.children.items()]
    found.sort(key=lambda item: (item[0], item[1]))
    return [child for *_, child in found]


def order(node: Node) -> list[Node]:
    """Children in the order in which they probably run."""

    children = sorted_children(node)
    if GATE.search(node.name):  # what narrows comes before what widens
        children.sort(key=lambda c: bool(re.search(r"expand|excite|up", c.name, re.I)))
    return sorted(children, key=rank)


def rank(child: Node) -> tuple[int, int]:
    """Where a module probably runs among those beside it, by its name."""
    if child.kind == "parameter":
        return (4, 0)
    early, late = bool(EARLY.search(child.name)), bool(LATE.search(child.name))
    if re.fullmatch(r"(down|conv)_?proj(ection)?", child.name):
        return (2, 0)
    return (
        3 if late else 0 if early else 1,
        int(bool(SECOND.search(child.name) and not child.name.endswith("_input"))),
    )


def shortcuts(node: Node) -> list[Node]:
    """Children that read what their block is given and run beside the others."""
    if any(numbered(child) and not SHORTCUT.search(child.name) for child in node.children.values()):
        return []
    return [c for c in sorted_children(node) if SHORTCUT.search(c.name) and c.kind != "norm"]


def norm_first_by_names(root: Node) -> dict[frozenset[str], bool | None]:
    """Whether `norm1` comes before `conv1`, for each set of names of layers, by the sizes of all such blocks."""
    votes: dict[frozenset[str], list[bool]] = {}
    for node in _containers(root):
        vote = votes.setdefault(signature(node), [True, True])
        for name, child in node.children.items():
            match = re.fullmatch(r"(?:bn|norm)_?(\d+)", name)
            conv = node.children.get(f"conv{match[1]}") if match else None
            if match and conv is not None and conv.kind == "conv" and child.kind == "norm" and not conv.transposed:
                size = child.tensors[next(iter(child.tensors))][1][:1]
                vote[0] &= size == conv.weight[1:2]
                vote[1] &= size == conv.weight[:1]
    return {key: None if before == after else before for key, (before, after) in votes.items()}


def codes_sound(node: Node) -> bool:
    """Whether a module is the encoder of a codec for sound, whose code is an output beside what is decoded."""
    decoder = node.parent.children.get("decoder") if node.parent and node.name == "encoder" else None
    both = [leaf for side in (node, decoder) if side is not None for leaf in side.leaves()]
    convs = [leaf for leaf in both if leaf.kind == "conv" and len(leaf.weight) == 3]
    return decoder is not None and bool(convs) and not any(leaf.kind == "embedding" for leaf in both)


def sizes_made(node: Node) -> set[int]:
    """Sizes that layers within a module return."""
    found: set[int] = set()
    for leaf in node.leaves():
        if leaf.kind in ("linear", "conv", "embedding"):
            found.add(leaf.weight[-1] if leaf.transposed or leaf.kind == "embedding" else leaf.weight[0])
        elif leaf.kind == "recurrent":
            widths = {shape[-1] for name, (_, shape) in leaf.tensors.items() if re.match("weight_(hh|hr)", name)}
            found |= widths | {2 * n for n in widths}
    return found


def sizes_made_early(root: Node) -> set[int]:
    """Sizes that layers return which do not lie in a module that runs late."""
    children = [child for name, child in root.children.items() if not LATE.search(name)]
    leaves = [leaf for child in children for leaf in child.leaves()]
    return {leaf.units for leaf in leaves if leaf.kind in ("linear", "conv", "embedding")}


def first_read(node: Node) -> int | None:
    """What the first layer of a module reads."""
    for leaf in node.leaves():
        if leaf.kind in ("linear", "conv"):
            return leaf.fan_in
    return None


def block_of(node: Node) -> Node | None:
    """The module around a layer that holds more than it and its norm."""
    scope = node.parent or node
    while scope is not None and scope.parent is not None and sum(1 for _ in scope.leaves()) <= 3:
        scope = scope.parent
    return scope


def may_be_grouped(node: Node, before: Entry | None) -> bool:
    """Whether the first convolution of a module may read a value in groups."""
    leaf = next((leaf for leaf in node.leaves() if leaf.kind in ("linear", "conv")), None)
    if leaf is None or leaf.kind != "conv" or before is None or leaf.transposed:
        return False
    groups, rest = divmod(before.size, leaf.weight[1])
    return groups > 1 and rest == 0 and leaf.units % groups == 0 and max(leaf.weight[2:]) > 1


def may_join_own(node: Node, given: Entry) -> bool:
    """Whether a layer may read two values of its own block side by side rather than both directions of a recurrent
    layer elsewhere, which may have been added (Luong et al., 2015)."""
    half = [node.fan_in // 2] * 2
    return [d.size for d in given.value] == half and node.parent is not None and half[0] in sizes_made(node.parent)


def may_pad(node: Node) -> bool:
    """Whether a block may add what it reads, padded with zeros, to more channels that it returns (He et al., 2016, A).

    That is so where it has no shortcut of its own, while blocks of the same layers in its list or in one beside it
    return as many channels as they read and so may add them. Blocks with depthwise convolutions add nothing then.
    """
    ends = _ends_of(node) if node.name.isdigit() else None
    if ends is None or ends[0] == ends[1] or node.parent is None or any(map(SHORTCUT.search, node.children)):
        return False
    lists = node.parent.parent.children.values() if node.parent.parent is not None else [node.parent]
    alike = [m for other in lists for m in other.children.values() if m.children.keys() == node.children.keys()]
    return any(found is not None and found[0] == found[1] for found in map(_ends_of, alike))


def _ends_of(node: Node) -> tuple[int, int] | None:
    """Channels that a block of norms and two wide convolutions, or three, reads and returns; None for other modules."""
    layers = [leaf for leaf in node.leaves() if leaf.kind == "conv"]
    normed = any(leaf.kind == "norm" for leaf in node.leaves())
    if len(layers) not in (2, 3) or not normed or any(leaf.fan_in == 1 or leaf.transposed for leaf in layers):
        return None
    if any(numbered(child) or "attn" in child.name for child in node.children.values()):
        return None
    wide = all(max(layer.weight[2:]) > 1 for layer in (layers[0], layers[-1]))
    return (layers[0].fan_in, layers[-1].units) if wide or len(layers) > 2 else None


def is_hourglass(layers: Iterable[Node]) -> bool:
    """Whether layers return as many units as one further back while one between them returns another number: they may
    be added (Mao et al., RED-Net, 2016)."""
    units = [layer.units for layer in layers if layer.kind in ("conv", "linear")]
    return any(n in units[:i] and units[i - 1] != n for i, n in enumerate(units))


def maps_to_maps(root: Node) -> bool:
    """Whether a network consists of convolutions alone."""
    return not any(leaf.kind in ("linear", "recurrent", "embedding") for leaf in root.leaves())


def signature(node: Node) -> frozenset[str]:
    """Names of a block's numbered layers."""
    return frozenset(name for name in node.children if STEM.fullmatch(name))


def _containers(node: Node) -> Iterable[Node]:
    yield node
    for child in node.children.values():
        yield from _containers(child)


def has_halves(root: Node) -> bool:
    """Whether blocks have one or two branches of which a depthwise one is called the second (Ma et al., ShuffleNet V2,
    2018)."""
    pairs = [
        node
        for node in _containers(root)
        if "branch2" in node.children and node.children.keys() <= {"branch1", "branch2"}
    ]
    return any(leaf.kind == "conv" and leaf.fan_in == 1 for node in pairs for leaf in node.leaves())


def chain_of(node: Node, norm_first: bool | None) -> list[Node] | None:
    """Returns the numbered layers of a block (`conv1`, `bn1`, `conv2`, ...) in order if each fits the one before."""
    main = [c for c in node.children.values() if c.kind != "parameter" and not SIDE.search(c.name)]
    matches = {c.name: STEM.fullmatch(c.name) for c in main}
    if len(main) < 2 or not all(matches.values()) or not all(c.kind in ("linear", "conv", "norm") for c in main):
        return None
    convs = {m[2] for c in main if (m := matches[c.name]) and c.kind == "conv"}

    def key(child: Node) -> tuple:
        number = matches[child.name][2]  # type: ignore[index]
        norm = child.kind == "norm"
        group = 0 if child.kind == "conv" or (norm and number in convs) else 1
        return (group, _number(number, node), matches[child.name][3], norm != bool(norm_first))  # type: ignore[index]

    chain = sorted(main, key=key)
    if norm_first is None and any(c.kind == "norm" for c in main) and any(c.kind == "conv" for c in main):
        return None
    current = 0
    for child in chain:
        if child.kind == "norm":
            if child.tensors[next(iter(child.tensors))][1][:1] not in ((), (current,)) and current:
                return None
            continue
        out, fan_in = child.weight[:2]
        if child.transposed:
            fan_in, out = child.weight[-2:]
        if current and fan_in != current and (current % fan_in or child.kind == "linear") and fan_in % current:
            return None
        current = out
    return chain


class Plan(NamedTuple):
    """Modules of a block: bare parameters, others in the order in which they are tried, shortcuts, and the chain."""

    bare: list[Node]
    layers: list[Node]
    shortcuts: list[Node]
    chain: list[Node] | None


def plan_of(node: Node, norm_first: bool | None) -> Plan:
    """What names tell of the modules of a block.

    Args:
      norm_first: see `chain_of`.
    """
    children = zipped(node) or order(node)
    bare = [c for c in children if all(leaf.kind == "parameter" for leaf in c.leaves())]
    return Plan(bare, [c for c in children if c not in bare], shortcuts(node), chain_of(node, norm_first))
