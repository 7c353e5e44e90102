"""Sweeps and read-outs of many networks in NumPy, on all cores: the road on machines without an accelerator.

Nothing is compiled, and JAX is not imported.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from wsrl.encoder.dense_layers import DenseLayer
from wsrl.encoder.dense_sweep import Inputs, sweep_network
from wsrl.encoder.shape import EncoderShape
from wsrl.encoder.swept import Encoding, Swept, bounded, fit_inputs, read
from wsrl.encoder.templates import blurred, fit_gradients

KEPT_MEMORY = 31 * 2**20  # bytes; glibc learns from blocks of less than 32 MiB
READ_SIZE = 512  # networks that are read out together


def sweep_networks(
    shape: EncoderShape,
    inputs: Float32[np.ndarray, "probes height width channels"],
    count: int,
    network_at: Callable[[int], list[DenseLayer]],
    progress: str | None = None,
) -> Swept:
    """As the method `sweep` of `wsrl.encoder.encoder.ResponseEncoder`.

    Args:
      shape: of the encoder.
      inputs: that it sweeps.
      count: of the networks.
      network_at: gives the network at a place, 0 to count - 1, when its turn comes.
      progress: label of a progress line, or None for no line.

    Returns:
      What the sweeps tell of each network; classes are as many as the largest output layer has.
    """
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    workers = min(os.cpu_count() or 1, count)
    # glibc keeps as much freed memory as twice the largest block that was freed; what it gives back to the system is
    # zeroed anew for each network, which took a third of the time for images of 16 pixels
    np.empty(KEPT_MEMORY, np.uint8)

    with (
        tqdm(total=count, desc=progress, unit="model", disable=progress is None, mininterval=1.0) as line,
        threadpool_limits(1, "blas"),  # products are small, and threads would wait for one another
        ThreadPoolExecutor(workers) as pool,
    ):

        def sweep_share(places: Int[np.ndarray, " share"]) -> None:
            fed: dict[tuple[int, int, int], tuple[Inputs, Inputs | None]] = {}
            for place in places.tolist():
                network = network_at(place)
                size = (*network[0].grid, network[0].units)
                if size not in fed:
                    images = fit_inputs(inputs, size)
                    rest = Inputs(images[shape.pulled :]) if shape.pulled < len(images) else None
                    fed[size] = Inputs(images[: shape.pulled]), rest
                logits, gradients = sweep_network(network, *fed[size], gradients=shape.template != 0)
                fitted = fit_gradients(gradients[None], size, shape.input_shape[:2])
                templates = blurred(fitted, shape.blur).reshape(len(logits), -1)
                found[place] = bounded(logits), bounded(templates)
                line.update()

        for _ in pool.map(sweep_share, np.array_split(np.arange(count), workers)):
            pass
    classes = max(len(logits) for logits, _ in found.values())
    swept = Swept(
        np.zeros((count, classes, shape.probes), np.float32),
        np.zeros((count, classes, prod(shape.input_shape[:2])), np.float32),
        np.zeros((count, classes), np.float32),
    )
    for place, (logits, templates) in found.items():
        own = slice(len(logits))
        swept.logits[place, own], swept.templates[place, own], swept.mask[place, own] = logits, templates, 1.0
    return swept


def read_swept(shape: EncoderShape, params: Mapping[str, Any], swept: Swept) -> Encoding:
    """Reads out embeddings [n, dim] and predicted accuracies [n] of swept networks, by parameters of NumPy."""
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        parts = [
            read(shape, params, swept.at(slice(start, start + READ_SIZE)))
            for start in range(0, len(swept.mask), READ_SIZE)
        ]
    return Encoding(*(np.concatenate(leaves).astype(np.float32) for leaves in zip(*parts, strict=True)))
