"""Reads the networks of a zoo into graphs; what cannot be used is reported and left out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from wsrl.annotations import Graph
from wsrl.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from wsrl.graph.collection import checkpoint_graph
from wsrl.zoo.manifest import Record

HINTS = ("activation", "strides", "heads", "input_shape")


class Networks(NamedTuple):
    """Usable networks of a zoo, in the order of its manifest.

    Attributes:
      records, checkpoints, graphs: of equal length.
      problems: one line for each model that was left out.
    """

    records: list[Record]
    checkpoints: list[Checkpoint]
    graphs: list[Graph]
    problems: list[str]


def load_networks(directory: Path, records: Sequence[Record], tile: int) -> Networks:
    """Reads checkpoints and builds their graphs.

    A checkpoint that is missing, broken, not finite or not understood, or whose weights are those of an earlier
    one, is left out and told of. What the manifest says of a model goes before what its file says.
    """
    networks = Networks([], [], [], [])
    known: dict[str, str] = {}
    for record in tqdm(records, desc="graphs", unit="model", mininterval=1.0):
        try:
            checkpoint = read_checkpoint(directory / record.path)
            told = {key: record.get(key) for key in HINTS if record.get(key) is not None}
            checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors, {**checkpoint.metadata, **told})
            digest = weights_hash(checkpoint)
            if digest in known:
                networks.problems.append(f"{record.id}: left out, the same weights as {known[digest]}")
                continue
            graph = checkpoint_graph(checkpoint, tile)
        except CheckpointError as error:
            networks.problems.append(f"{record.id}: left out, {error}")
            continue
        known[digest] = record.id
        networks.records.append(record)
        networks.checkpoints.append(checkpoint)
        networks.graphs.append(graph)
    return networks


def weights_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 of names, shapes and values of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        tensor = np.asarray(checkpoint.tensors[name])
        digest.update(f"{name}{tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
