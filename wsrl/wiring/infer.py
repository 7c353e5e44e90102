"""Infers the wiring of a checkpoint from the names and shapes of its tensors.

Activations, strides, the number of heads and the input's shape cannot be read off weights alone. They are taken
from the checkpoint's metadata where it has them (`activation`, `strides`, `heads`, `input_shape`) and guessed
from shapes where it does not.
"""

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.wiring import chain, recurrence, residual, transformer
from wsrl.wiring.hints import read_hints
from wsrl.wiring.layers import Wiring
from wsrl.wiring.names import parse_modules


def infer_wiring(checkpoint: Checkpoint) -> Wiring:
    """Infers layers and links of a checkpoint.

    Raises:
      CheckpointError: the names and shapes do not form a network of a known family.
    """
    hints = read_hints(checkpoint.metadata, checkpoint.path)
    modules, ignored = parse_modules(checkpoint)
    try:
        for family in (transformer, recurrence, residual, chain):
            if family.matches(modules):
                wiring = Wiring(tuple(family.layers(modules, hints)), tuple(ignored))
                check_shapes(wiring, checkpoint)
                return wiring
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise CheckpointError(
            checkpoint.path, f"its tensors do not form a network of a known family ({error})", "leave it out"
        ) from error
    raise AssertionError("a chain matches whatever has weights")


def check_shapes(wiring: Wiring, checkpoint: Checkpoint) -> None:
    """Checks views against tensors and links against layers; raises ValueError where they do not fit."""
    for layer in wiring.layers:
        norm = layer.norm
        views = [link.weight for link in layer.links] + [*layer.biases]
        views += [norm.gain, norm.bias, norm.mean, norm.variance] if norm else []
        for view in views:
            if view is not None and view.shape != checkpoint.tensors[view.tensor].shape:
                found = checkpoint.tensors[view.tensor].shape
                raise ValueError(f"{view.tensor} has shape {found}, expected {view.shape}")
        for link in layer.links:
            source = wiring.layers[link.source]
            sizes = link.weight.sizes if link.weight else {"in": source.units}
            fan_in = sizes["in"] if "in" in sizes else sizes["heads_in"] * sizes["dim_in"]
            if fan_in != source.units:
                raise ValueError(f"{layer.name} reads {fan_in} units, {source.name} has {source.units}")
        if min(layer.grid) < 1:
            raise ValueError(f"layer {layer.name} has an empty map")
