"""Finds the family of an image model and writes its operators down."""

import re
from collections.abc import Mapping

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module
from wsrl.forward.families.network import Config, Network, renamed
from wsrl.forward.families.registry import FAMILIES
from wsrl.forward.families.value import Trace
from wsrl.forward.graph import ForwardGraph
from wsrl.program.hints import read_hints
from wsrl.wiring.wiring import Fact, Wiring

BUFFERS = re.compile(
    r"(.*\.)?(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask|position_ids|attention_bias_idxs)"
)
FIX = "leave it out, or export it with its graph (ONNX)"


def family_graph(checkpoint: Checkpoint, wiring: Wiring | None = None) -> tuple[ForwardGraph, Mapping[str, Fact]]:
    """Writes down the operators of an image model of torchvision, timm or transformers.

    The family follows from names, shapes and, where there is one, `config.json`. All tensors must have a part in the
    network, so that a model with more modules than its family has is refused rather than run wrongly.

    Args:
      checkpoint: its values are not read.
      wiring: of the checkpoint; what it ignores, as counters, need not have a part.

    Returns:
      The graph, and what names and shapes do not tell of it: `activation`, `input` ([height, width, channels]),
      `epsilon`, `heads` and others, each with its source.

    Raises:
      CheckpointError: it is of no known family, or not all of it is understood.
    """
    names = _without_prefix(list(checkpoint.tensors))
    hints = read_hints(checkpoint.metadata, checkpoint.path)
    config = Config(checkpoint.config)
    ignored = set(wiring.ignored) if wiring else set()
    refused: ValueError | None = None
    images = any(len(tensor.shape) == 4 for tensor in checkpoint.tensors.values())  # all begin with a convolution
    for family in FAMILIES if images else ():
        stored = {renamed(name, family.renames): own for name, own in names.items()}
        if not family.shows_in(stored) or len(stored) < len(names):
            continue
        shapes = {name: checkpoint.tensors[own].shape for name, own in stored.items()}
        net = Network(stored, shapes, config, hints.input_shape, Trace(list(checkpoint.tensors)))
        try:
            return _written(net, family, ignored), dict(net.facts)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            refused = refused or ValueError(f"it looks like {family.name}, but {error}")
    reason = refused or "its tensors are named like those of no image model that is known"
    raise CheckpointError(checkpoint.path, f"no network that can be run ({reason})", FIX) from refused


def _without_prefix(names: list[str]) -> dict[str, str]:
    """Names without the modules that all share, such as `module.` -> names in the checkpoint."""
    found = {name: name for name in names}
    while len(heads := {name.partition(".")[0] for name in found}) == 1 and all("." in name for name in found):
        start = len(heads.pop()) + 1
        found = {name[start:]: own for name, own in found.items()}
    return found


def _written(net: Network, family: Family, ignored: set[str]) -> ForwardGraph:
    output = family.write(Module(net))
    if len(output.shape) != 1:
        raise ValueError(f"its outputs have the shape {output.shape}, not that of classes")
    rest = [
        name
        for name, own in net.stored.items()
        if name not in net.used and own not in ignored and not BUFFERS.fullmatch(name) and not family.is_beside(name)
    ]
    if rest:
        raise ValueError(f"{len(rest)} tensors have no part in it, such as {net.stored[rest[0]]!r}")
    if net.input_shape is None:
        raise ValueError("it reads no images")
    height, width, channels = net.input_shape
    return ForwardGraph(
        tuple(net.trace.steps), net.trace.input, (channels, height, width), output.name, net.trace.constants
    )
