"""Inputs of the network: what flows in where modules wait for sizes that nothing in it produces."""

import re
from typing import TYPE_CHECKING

from wsrl.wiring.dims import Dim, fix
from wsrl.wiring.order import EARLY, INPUTS, LATE, STEM, order, rank, runs_later
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

FRONTS = re.compile(r"encoder\.(conv|subsampl\w*)(\.conv_layers|\.convs?)?\.0(\.conv)?$")

if TYPE_CHECKING:
    from wsrl.wiring.flow import Flow


def feed(flow: "Flow", env: Env) -> bool:
    """Makes an input of the network where a module waits for a size that nothing produces."""
    wanted, flow.wanted = [(s, n) for s, n in flow.wanted if n.kind != "norm"], []
    produced = {e.size for e in env.entries}
    sums = {a + b for a in produced for b in produced} | {k * a for a in produced for k in range(2, 65)}
    images = [
        (s, n)
        for s, n in wanted
        if n.kind == "conv"
        and s not in produced
        and (1 < s <= 4 or (s == 1 and not env.entries and not re.search("depthwise|dw", n.name)))
        and not (env.entries and any(name.isdigit() for name in n.path))  # else it may be grouped
        and (s in (1, 3) or n.transposed or max(n.weight[2:]) > 1)
    ]
    sources = [(s, n) for s, n in wanted if s not in _made_before(flow, n) and s > 1 and not LATE.search(n.path[0])]
    images.sort(key=lambda image: -image[0])  # what reads one channel may be depthwise
    first = wanted if not env.entries else []
    following = [image for image in images if _follows_in_block(image[1])]
    images = [image for image in images if image not in following]
    sources = [
        (s, n)
        for s, n in sources
        if not env.entries or (s not in sums and not (n.kind == "conv" and _in_groups(n, env)))
    ]
    for size, node in images + sources + following + first:
        if size not in produced:
            for entry in env.entries:  # it may be read with what comes back from later layers (iterations, actions)
                if not entry.read and entry.size < size < 2 * entry.size:
                    fix(entry.value)
            env.add((Dim(size, role="input"),), spatial=node.kind == "conv")
            flow.cyclic |= (
                size in flow.made and (size, node) not in images + following and not _surely_first(flow, node)
            )
            return True
    return False


def _in_groups(node: Node, env: Env) -> bool:
    """Whether a member of a list may read maps that were made before, in groups; three channels are an image."""
    listed = node.fan_in != 3 and any(name.isdigit() for name in node.path)
    return listed and any(e.spatial and e.size % node.fan_in == 0 for e in env.made)


def _follows_in_block(node: Node) -> bool:
    """Whether a convolution of few channels may read those that another layer of its block returns, in groups or each
    for itself, after they were gated or not."""
    block, size = node.parent, node.fan_in
    while block is not None and sum(leaf.kind == "conv" for leaf in block.leaves()) < 2:
        block = block.parent
    if block is None or block.parent is None or size not in (1, 2, 4) or node.units % size or not node.units > size:
        return False
    widths = (node.units, 2 * node.units) if size == 1 else (node.units,)
    layers = [leaf for leaf in block.leaves() if leaf.kind == "conv" and leaf is not node]
    return any(leaf.units in widths and not runs_later(leaf, node) for leaf in layers)


def _made_before(flow: "Flow", node: Node) -> set[int]:
    """Sizes that some module returns, other than those that run late where this one runs early."""
    if not EARLY.search(node.path[0]):
        return flow.made
    return flow.made_early


def feed_encoders(flow: "Flow", node: Node, env: Env) -> None:
    """Makes inputs of the network that encoders and embeddings within a block read: images, spectra, features."""
    if any(name.isdigit() for name in node.path) or not node.path or env.is_unknown():
        return
    for child in node.children.values():
        layers = [
            leaf
            for leaf in child.leaves()
            if leaf.kind in ("conv", "linear")
            and (FRONTS.search(leaf.dotted) or not any(p.isdigit() for p in leaf.path))
        ]
        for leaf in layers if INPUTS.search(child.name) else ():
            size = leaf.fan_in
            image = size == 3 and leaf.kind == "conv" and leaf.weight[2] > 1
            derived = any(size == k * made for made in flow.made for k in (1, 2, 3, 4))
            if "pos" in leaf.dotted or leaf.name in ("query", "key", "value", "out"):  # these read the stream
                continue
            if size > 1 and INPUTS.search(leaf.dotted) and (image or not derived) and not env.everywhere(size):
                _inputs_of(env).add((Dim(size, role="input"),), spatial=leaf.kind == "conv")


def _inputs_of(env: Env) -> Env:
    """The environment of the root."""
    while env.parent is not None and env.parent.parent is not None:
        env = env.parent
    return env


def _surely_first(flow: "Flow", node: Node) -> bool:
    """Whether names tell that a module of the root runs before the others."""
    top = flow.root
    for name in node.path:
        if name not in top.children:
            break
        beside = [c for c in order(top) if c.kind not in ("norm", "parameter")]
        top = top.children[name]
        known = len(beside) < 2 or rank(top) < rank(beside[1]) or bool(STEM.fullmatch(top.name) or top.name.isdigit())
        if not beside or beside[0] is not top or not known:
            return False
    return True
