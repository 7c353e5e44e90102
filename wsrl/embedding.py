"""From checkpoint files to vectors: the one way that the command line goes.

A large model is streamed, one tensor at a time; small ones are stacked by architecture. Both run the same sweep.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from wsrl.canonical import Canonicalizer
from wsrl.canonical.rows import CHUNK, read_whole
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder.group_readout import DIM, read_out
from wsrl.encoder.group_schedule import Schedule, make_schedule
from wsrl.encoder.group_sweep import Sweep
from wsrl.encoder.group_weights import StackedWeights, StreamedWeights, Weights
from wsrl.errors import InputError
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.wiring import Wiring

SMALL = 2**21  # parameters; larger models are streamed
STACK = 32  # models swept at once
PENDING = 2**26  # parameters that wait in memory for others of their architecture

Wire = Callable[[Checkpoint], Wiring]


class Embeddings(NamedTuple):
    """Vectors of checkpoints, and the checkpoints that have none.

    Attributes:
      ids: of the vectors, in the order in which they were given.
      vectors: of length 1.
      broken: why the others have none.
      kinds: of networks, see `wsrl.graph.kind.network_kind`; none where the encoder is not trained.
      accuracy: that the encoder predicts, 0 to 1; none where it is not trained.
    """

    ids: list[str]
    vectors: Float32[np.ndarray, "n dim"]
    broken: list[CheckpointError]
    kinds: list[str] | None = None
    accuracy: Float32[np.ndarray, " n"] | None = None

    @staticmethod
    def none(dim: int) -> Float32[np.ndarray, "0 dim"]:
        """No vectors."""
        return np.zeros((0, dim), np.float32)


@dataclass
class _Architecture:
    """What models of the same names and shapes share, and those of them that wait to be swept."""

    canonicalize: Canonicalizer
    schedule: Schedule
    waiting: list[tuple[int, dict[str, np.ndarray]]] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Of one model."""
        return self.canonicalize.wiring.parameters


def embed_files(
    sources: Sequence[str],
    wire: Wire = infer_wiring,
    skip_broken: bool = False,
    progress: bool = False,
    small: int = SMALL,
) -> Embeddings:
    """Embeds checkpoints.

    Args:
      sources: what `wsrl.readers.open_checkpoint` takes; they become the ids.
      wire: finds the wiring of a checkpoint.
      skip_broken: go on where a checkpoint cannot be used.
      progress: show progress lines on stderr.
      small: parameters up to which models are stacked.

    Raises:
      InputError: a source is given twice, or there is none.
      CheckpointError: a checkpoint cannot be used and `skip_broken` is not set.
    """
    check_sources(sources)
    vectors: dict[int, np.ndarray] = {}
    broken: dict[int, CheckpointError] = {}
    run = _Run(sources, wire, small, progress)
    line = tqdm(total=len(sources), desc="embedding", unit="model", disable=not progress, mininterval=1.0)
    with line, threadpool_limits(1):  # matrices are small or thin, and threads would wait for busy cores
        for place, result in run.results():
            line.update()
            if isinstance(result, np.ndarray):
                vectors[place] = result
            elif skip_broken:
                broken[place] = result
            else:
                raise result
    order = sorted(vectors)
    stacked = np.stack([vectors[i] for i in order]) if order else Embeddings.none(DIM)
    return Embeddings([sources[i] for i in order], stacked.astype(np.float32), [broken[i] for i in sorted(broken)])


def check_sources(sources: Sequence[str]) -> None:
    """Raises InputError if a source is given twice, or there is none."""
    if not sources:
        raise InputError("embed", "no checkpoint was given", "name at least one file")
    repeated = next((s for s in sources if sources.count(s) > 1), None) if len(set(sources)) < len(sources) else None
    if repeated is not None:
        raise InputError(repeated, "is given more than once", "give every checkpoint once")


class _Run:
    """One call of `embed_files`."""

    def __init__(self, sources: Sequence[str], wire: Wire, small: int, progress: bool):
        self.sources, self.wire, self.small, self.progress = sources, wire, small, progress
        self.architectures: dict[object, _Architecture] = {}

    def results(self) -> Iterator[tuple[int, np.ndarray | CheckpointError]]:
        """Yields the place and the vector of every source, or why it has none, as soon as it is known."""
        pending = 0
        for place, source in enumerate(self.sources):
            try:
                checkpoint = open_checkpoint(source)
                architecture = self._architecture(checkpoint)
                if architecture.parameters > self.small:
                    canonicalize, schedule = architecture.canonicalize, architecture.schedule
                    yield place, embed_streamed(checkpoint, canonicalize, schedule, self.progress)
                    continue
                canonical = architecture.canonicalize(checkpoint)
                tensors = {name: read_whole(tensor) for name, tensor in canonical.tensors.items()}
            except CheckpointError as error:
                yield place, error
                continue
            architecture.waiting.append((place, tensors))
            pending += architecture.parameters
            if len(architecture.waiting) == STACK:
                pending -= STACK * architecture.parameters
                yield from self._flush(architecture)
            if pending > PENDING:
                yield from self._flush_all()
                pending = 0
        yield from self._flush_all()

    def _flush_all(self) -> Iterator[tuple[int, np.ndarray]]:
        for architecture in self.architectures.values():
            if architecture.waiting:
                yield from self._flush(architecture)

    def _flush(self, architecture: _Architecture) -> Iterator[tuple[int, np.ndarray]]:
        places = [place for place, _ in architecture.waiting]
        stacked = {
            name: np.stack([tensors[name] for _, tensors in architecture.waiting])
            for name in architecture.canonicalize.wiring.shapes
        }
        architecture.waiting.clear()
        yield from zip(places, _swept(architecture.schedule, StackedWeights(stacked)), strict=True)

    def _architecture(self, checkpoint: Checkpoint) -> _Architecture:
        """Wires a checkpoint, unless one of the same names, shapes and configuration has been wired before."""
        told = {key: value for key, value in checkpoint.metadata.items() if key in ("config", "graph")}
        key = (tuple((name, t.shape) for name, t in checkpoint.tensors.items()), repr(told))
        if key not in self.architectures:
            wiring = self.wire(checkpoint)
            self.architectures[key] = _Architecture(Canonicalizer(wiring), make_schedule(wiring))
        return self.architectures[key]


def embed_streamed(
    checkpoint: Checkpoint,
    canonicalize: Canonicalizer,
    schedule: Schedule,
    progress: bool = False,
    entries: int = CHUNK,
) -> Float32[np.ndarray, "dim"]:
    """Embeds one model of any size: a few of its rows are in memory at a time, and the states of its neurons.

    Args:
      checkpoint: not yet canonical.
      canonicalize, schedule: of its wiring.
      progress: show a progress line on stderr.
      entries: numbers read at a time.

    Raises:
      CheckpointError: its weights hold NaN or Inf, or cannot be read.
    """
    count = len(schedule.visits) + len(schedule.vectors)
    name = Path(checkpoint.path).name
    with tqdm(total=count, desc=name, unit="tensor", disable=not progress, leave=False, mininterval=1.0) as line:
        weights = StreamedWeights(canonicalize(checkpoint).tensors, checkpoint.tensors, entries)
        return _swept(schedule, weights, lambda: line.update())[0]


def _swept(schedule: Schedule, weights: Weights, visited: Callable = lambda: None) -> Float32[np.ndarray, "models dim"]:
    def tokens():
        for token in Sweep(schedule, weights).tokens():
            visited()
            yield token

    return read_out(tokens()).astype(np.float32)
