"""What kind of network a program is, whatever its width and depth."""

from collections.abc import Sequence

from wsrl.encoder.dense_layers import DenseLayer
from wsrl.program.layers import Layer


def network_kind(layers: Sequence[Layer] | Sequence[DenseLayer]) -> str:
    """The features of an architecture that its layers show, as words; networks of one family have the same.

    norm, attention: it has such layers; map, rows: its neurons have maps of two dimensions or one; pooled: windows or
    maps are; skip: links leave out a layer, as residual connections do; steps: several levels read the input;
    dense: none of these.
    """
    levels: list[int] = []  # of each layer, the length of the longest path from the inputs
    for layer in layers:
        levels.append(max((levels[link.source] + 1 for link in layer.links), default=0))
    links = [(link, level) for layer, level in zip(layers, levels, strict=True) for link in layer.links]
    ops = {layer.op for layer in layers}
    height, width = (max(layer.grid[axis] for layer in layers if layer.op != "input") for axis in (0, 1))
    shown = {
        "norm": "norm" in ops,
        "attention": "attention" in ops,
        "map": width > 1,
        "rows": width == 1 and height > 1,
        "pooled": bool(ops & {"pool", "max", "mean"}) or any(layer.pool for layer in layers),
        "skip": any(level - levels[link.source] > 1 for link, level in links),
        "steps": len({level for link, level in links if layers[link.source].op == "input"}) > 1,
    }
    return " ".join(word for word, there in shown.items() if there) or "dense"
