"""From checkpoints to vectors of what they answer to natural images, for the families that can be run exactly."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.annotations import Graph
from wsrl.checkpoint import Checkpoint, CheckpointError, unexpected
from wsrl.encoder.assumptions import IMAGES, beside, likeliest
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import fit_inputs
from wsrl.encoder.export import PRETRAINED, encoder_hash, load_encoder
from wsrl.graph.collection import Planner, checkpoint_graph
from wsrl.graph.kind import network_kind, why_not_embeddable
from wsrl.graph.tiles import TILE
from wsrl.program.program import Program
from wsrl.program.read import read_programs

WINDOW = 1024  # networks in memory at a time
WEIGHT = 2  # of the likeliest program among those that a network may be
SMALLEST = 1e-12

Hints = Mapping[str, object]  # see `wsrl.program.hints.HINTS`


class FunctionVector(NamedTuple):
    """What an encoder says of a network.

    Attributes:
      vector: of length 1.
      accuracy: predicted, 0 to 1.
      kind: of the network, see `wsrl.graph.kind.network_kind`.
      program: that it most likely is, with what was assumed.
    """

    vector: Float32[np.ndarray, " dim"]
    accuracy: float
    kind: str
    program: Program

    @property
    def assumed(self) -> tuple[str, ...]:
        """What neither the file nor hints say, e.g. `activation: tanh`."""
        return self.program.assumed


class FunctionEncoder:
    """An encoder of what networks answer to natural images.

    Args:
      directory: holds `encoder.json` and `encoder.safetensors`, e.g. `runs/zoo/encoder_0`; see `encoder_directory`.

    Raises:
      InputError: the encoder cannot be read.
    """

    def __init__(self, directory: str | Path = PRETRAINED):
        self.encoder, self.params = load_encoder(Path(directory))
        self.hash = encoder_hash(self.encoder, self.params)
        self._embedder, self._planner = Embedder(self.encoder), Planner()
        inputs = np.asarray(self.params["inputs"])
        few = inputs[:: max(1, len(inputs) // IMAGES)][:IMAGES]
        self._images = cache(lambda shape: np.asarray(fit_inputs(few, shape)))

    def __call__(
        self, networks: Iterable[tuple[Checkpoint, Hints | None]], progress: str | None = None
    ) -> Iterator[FunctionVector | CheckpointError]:
        """Yields the vector of each network, in their order, or why it has none; `WINDOW` are in memory at a time.

        A network whose file leaves its activation or the size of its images open has the mean of the unit vectors of
        the programs that it may be, that of the likeliest counted `WEIGHT` times.

        Args:
          networks: checkpoints, whose tensors are read when their turn comes, with what else is known of them.
          progress: label of a progress line, or None for no line.
        """
        remaining = iter(networks)
        while window := list(islice(remaining, WINDOW)):
            read = [self._read(checkpoint, hints) for checkpoint, hints in window]
            graphs = [graph for entry in read if not isinstance(entry, CheckpointError) for graph in entry[1]]
            rows: Iterator = iter(())
            if graphs:
                rows = zip(*self._embedder(self.params, self._planner.buckets(graphs), progress), strict=True)
            for entry in read:
                if isinstance(entry, CheckpointError):
                    yield entry
                    continue
                program, own = entry
                vectors, accuracies = map(np.stack, zip(*islice(rows, len(own)), strict=True))
                mean = np.average(vectors, 0, [WEIGHT, *[1] * (len(own) - 1)])
                length = max(float(np.linalg.norm(mean)), SMALLEST)
                yield FunctionVector(
                    (mean / length).astype(np.float32), float(accuracies[0]), network_kind(own[0]), program
                )

    def _read(self, checkpoint: Checkpoint, hints: Hints | None) -> tuple[Program, list[Graph]] | CheckpointError:
        """The likeliest program, and its graph before those of the programs beside it."""
        try:
            programs = read_programs(checkpoint, hints)
            program = likeliest(checkpoint, programs, self._images)
            graphs = [checkpoint_graph(checkpoint, TILE, p) for p in (program, *beside(program, programs))]
            if reason := why_not_embeddable(graphs[0]):
                raise CheckpointError(checkpoint.path, reason, "search by weights")
            return program, graphs
        except CheckpointError as error:
            return error
        except Exception as error:  # of one network, which concerns no other
            return unexpected(checkpoint.path, error)
