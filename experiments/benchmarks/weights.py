"""Weights vectors a CPU second of small files, against reading them.

Part of `python -m experiments.benchmarks.speed`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from experiments.benchmarks.sweep import cpu_seconds
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.readers import open_checkpoint
from wsrl.signature.digest import content_digest

COLUMNS = ("weights vector", "reading", "distance")


def weights_speeds(
    networks: Sequence[Mapping[str, np.ndarray]], folder: Path, rounds: int
) -> tuple[float, float, float]:
    """Files a CPU second, in the order of `COLUMNS`.

    Args:
      networks: tensors by name; each becomes a safetensors file.
      folder: an empty one, for these.
      rounds: of which medians are taken.

    Returns:
      Files a second of `Encoder.embed` without functions; of opening a file, reading its tensors and digesting its
      bytes; and how many times as fast that is.
    """
    paths = [folder / f"{number}.safetensors" for number in range(len(networks))]
    for path, tensors in zip(paths, networks, strict=True):
        save_file(dict(tensors), path)
    encoder = load_encoder()

    def read() -> None:
        for path in paths:
            content_digest(path)
            for tensor in open_checkpoint(path).tensors.values():
                np.asarray(tensor)

    seconds = cpu_seconds({"weights": lambda: list(encoder.embed(paths, function=False)), "read": read}, rounds)
    weights, reading = len(paths) / seconds["weights"], len(paths) / seconds["read"]
    return weights, reading, reading / weights
