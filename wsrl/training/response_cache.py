"""A whole zoo after the sweeps: read and swept window by window, so that its graphs need not fit in memory together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from wsrl.annotations import Config
from wsrl.encoder.embed import Embedder
from wsrl.encoder.swept import Swept
from wsrl.files import write_atomically
from wsrl.graph.collection import Bucket, Planner
from wsrl.zoo.load import stream_networks
from wsrl.zoo.manifest import Record

FILE, USABLE = "swept.safetensors", "usable.json"


class SweptZoo(NamedTuple):
    """Usable networks of a zoo, in the order of its manifest.

    Attributes:
      records: of the networks.
      problems: one line for each model that was left out.
      swept: what each encoder's inputs found, rows as in `records`.
      buckets: the graphs of all networks, where they were asked for.
    """

    records: list[Record]
    problems: list[str]
    swept: list[Swept]
    buckets: list[Bucket]


def sweep_zoo(
    embedder: Embedder,
    params: Sequence[Any],
    zoo: Path,
    records: Sequence[Record],
    config: Config,
    directories: Sequence[Path],
    keep_graphs: bool = False,
) -> SweptZoo:
    """Sweeps the inputs of several encoders of one shape through the networks of a zoo.

    Args:
      embedder: holds the compiled programs.
      params: of each encoder.
      zoo: directory of the zoo.
      records: of its manifest.
      config: the section `encoder`: tile, window, batch_cost and slack.
      directories: of the encoders; they keep what was found, and a later call takes it from there.
      keep_graphs: return the graphs too, all in one window.
    """
    if not keep_graphs and (found := load_kept(records, directories)):
        return found
    used, problems, buckets = [], [], []
    parts: list[list[Swept]] = [[] for _ in params]
    planner = Planner(config.batch_cost, config.slack)
    window = max(1, len(records)) if keep_graphs else config.window
    for networks in stream_networks(zoo, records, config.tile, window, "sweeps"):
        problems += networks.problems
        used += networks.records
        if networks.graphs:
            buckets = planner.buckets(networks.graphs)
            for found, own in zip(parts, params, strict=True):
                found.append(embedder.sweep(own, buckets))
    swept = [_concatenate(found) for found in parts if found]
    if swept and not keep_graphs:
        for directory, found in zip(directories, swept, strict=True):
            write_atomically(directory / FILE, safetensors.numpy.save(found._asdict()))
        usable = {"ids": [record.id for record in used], "problems": problems, "of": len(records)}
        write_atomically(directories[-1].parent / USABLE, json.dumps(usable).encode())
    return SweptZoo(used, problems, swept, buckets if keep_graphs else [])


def load_kept(records: Sequence[Record], directories: Sequence[Path]) -> SweptZoo | None:
    """What `sweep_zoo` kept in the directories of encoders, if it is whole and of these records; None otherwise."""
    try:
        usable = json.loads((directories[-1].parent / USABLE).read_bytes())
        ids, problems, of = (usable[key] for key in ("ids", "problems", "of"))
        swept = [Swept(**safetensors.numpy.load_file(directory / FILE)) for directory in directories]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    by_id = {record.id: record for record in records}
    whole = of == len(records) and all(len(found.mask) == len(ids) for found in swept)
    if not whole or not all(name in by_id for name in ids):
        return None
    return SweptZoo([by_id[name] for name in ids], problems, swept, [])


def _concatenate(parts: Sequence[Swept]) -> Swept:
    """Joins windows; classes and levels that a window's networks do not have are padded with zeros."""

    def join(leaves: Sequence[np.ndarray]) -> np.ndarray:
        shape = np.max([leaf.shape[1:] for leaf in leaves], axis=0)
        joined = np.concatenate(
            [np.pad(x, [(0, 0), *((0, int(n) - m) for n, m in zip(shape, x.shape[1:], strict=True))]) for x in leaves]
        )
        return np.ascontiguousarray(joined)  # or safetensors writes other numbers

    return Swept(*(join(leaves) for leaves in zip(*parts, strict=True)))
