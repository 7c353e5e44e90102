"""From checkpoints to vectors of what they answer to natural images, for the families that can be run exactly."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from wsrl.annotations import Graph
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder.assumptions import IMAGES, likeliest
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import fit_inputs
from wsrl.encoder.export import PRETRAINED, encoder_hash, load_encoder
from wsrl.graph.collection import Planner, checkpoint_graph
from wsrl.graph.kind import network_kind
from wsrl.graph.tiles import TILE
from wsrl.wiring.infer import Program, read_programs

WINDOW = 1024  # networks in memory at a time

Hints = Mapping[str, object]  # see `wsrl.wiring.hints.HINTS`


class FunctionVector(NamedTuple):
    """What an encoder says of a network.

    Attributes:
      vector: of length 1.
      accuracy: predicted, 0 to 1.
      kind: of the network, see `wsrl.graph.kind.network_kind`.
      program: that it ran as, with what was assumed.
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
        self._images = cache(lambda shape: np.asarray(fit_inputs(jnp.asarray(few), shape)))

    def program(self, checkpoint: Checkpoint, hints: Hints | None = None) -> Program:
        """Returns how a network runs: from hints, metadata and shapes, and else what its weights speak for.

        Raises:
          CheckpointError: it is no network of these families, or a hint is not of its form.
        """
        return likeliest(checkpoint, read_programs(checkpoint, hints), self._images)

    def __call__(
        self, networks: Iterable[tuple[Checkpoint, Hints | None]], progress: str | None = None
    ) -> Iterator[FunctionVector | CheckpointError]:
        """Yields the vector of each network, in their order, or why it has none; `WINDOW` are in memory at a time.

        Args:
          networks: checkpoints, whose tensors are read when their turn comes, with what else is known of them.
          progress: label of a progress line, or None for no line.
        """
        remaining = iter(networks)
        while window := list(islice(remaining, WINDOW)):
            read = [self._graph(checkpoint, hints) for checkpoint, hints in window]
            graphs = [entry[1] for entry in read if not isinstance(entry, CheckpointError)]
            answers = iter(())
            if graphs:
                answers = zip(*self._embedder(self.params, self._planner.buckets(graphs), progress), strict=True)
            for entry in read:
                if isinstance(entry, CheckpointError):
                    yield entry
                else:
                    program, graph = entry
                    vector, accuracy = next(answers)
                    yield FunctionVector(vector, float(accuracy), network_kind(graph), program)

    def _graph(self, checkpoint: Checkpoint, hints: Hints | None) -> tuple[Program, Graph] | CheckpointError:
        try:
            program = self.program(checkpoint, hints)
            return program, checkpoint_graph(checkpoint, TILE, program.wiring)
        except CheckpointError as error:
            return error
