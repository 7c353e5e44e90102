"""Reads the networks of a zoo into graphs; what cannot be used is reported and left out."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.tiles import TileGraph
from wsrl.zoo.manifest import Record, record_hints
from wsrl.zoo.storage import read_checkpoints


class Networks(NamedTuple):
    """Usable networks of a zoo, in the order of its manifest.

    Attributes:
      records, checkpoints, graphs: of equal length.
      problems: one line for each model that was left out.
    """

    records: list[Record]
    checkpoints: list[Checkpoint]
    graphs: list[TileGraph]
    problems: list[str]


def load_networks(directory: Path, records: Sequence[Record], tile: int) -> Networks:
    """Reads all networks at once: the single window of `stream_networks`."""
    return next(stream_networks(directory, records, tile, max(1, len(records))), Networks([], [], [], []))


def stream_networks(
    directory: Path, records: Sequence[Record], tile: int, window: int, label: str = "graphs"
) -> Iterator[Networks]:
    """Reads checkpoints and builds their graphs, of `window` records at a time.

    A checkpoint that is missing, broken, not finite or not understood, or whose weights are those of an earlier
    one of any window, is left out and told of. What the manifest says of a model goes before what its file says.

    Args:
      directory: of the zoo.
      records: of its manifest; windows follow their order.
      tile: neurons a tile of the graphs.
      window: records, of which at most so many networks come.
      label: of the progress line, which also tells of what is done with the windows.

    Yields:
      The networks of each window. Only one window is held here.
    """
    known: dict[bytes, str] = {}
    with tqdm(total=len(records), desc=label, unit="model", mininterval=1.0) as progress:
        for start in range(0, len(records), window):
            networks = _read_window(directory, records[start : start + window], tile, known, progress)
            yield networks
            del networks  # else it would stay while the next one is built


def _read_window(
    directory: Path, records: Sequence[Record], tile: int, known: dict[bytes, str], progress: tqdm
) -> Networks:
    """Reads one window; `known` has the id of each network by its hash, and grows."""
    networks = Networks([], [], [], [])
    for record, checkpoint in zip(records, read_checkpoints(directory, records), strict=True):
        progress.update()
        try:
            if isinstance(checkpoint, CheckpointError):
                raise checkpoint
            checkpoint = _with_hints(checkpoint, record)
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


def _with_hints(checkpoint: Checkpoint, record: Record) -> Checkpoint:
    return Checkpoint(checkpoint.path, checkpoint.tensors, {**checkpoint.metadata, **record_hints(record)})


class StoredCheckpoints(Sequence[Checkpoint]):
    """Checkpoints of usable records, read each time they are asked for, so that a zoo need not fit in memory."""

    def __init__(self, directory: Path, records: Sequence[Record]):
        self.directory = directory
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> Checkpoint:  # pyright: ignore[reportIncompatibleMethodOverride]
        record = self.records[place]
        (checkpoint,) = read_checkpoints(self.directory, [record])
        if isinstance(checkpoint, CheckpointError):
            raise checkpoint
        return _with_hints(checkpoint, record)


def weights_hash(checkpoint: Checkpoint) -> bytes:
    """SHA-256 of names, shapes and values of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        tensor = np.asarray(checkpoint.tensors[name])
        digest.update(f"{name}{tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.digest()
