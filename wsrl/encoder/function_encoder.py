"""From checkpoints to vectors of what they answer to natural images, for the families that can be run exactly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.checkpoint import Checkpoint, CheckpointError, unexpected
from wsrl.encoder.accelerator import has_accelerator
from wsrl.encoder.assumptions import beside, likeliest
from wsrl.encoder.dense_encoder import read_swept, sweep_networks
from wsrl.encoder.dense_layers import DenseLayer, dense_layers
from wsrl.encoder.dense_sweep import Inputs
from wsrl.encoder.files import PRETRAINED, read_encoder
from wsrl.encoder.kind import network_kind
from wsrl.encoder.shape import EncoderShape
from wsrl.encoder.swept import Encoding, fit_inputs
from wsrl.extras import require
from wsrl.program.network import Network, canonical_network
from wsrl.program.program import Program

WINDOW = 1024  # networks in memory at a time
WEIGHT = 2  # of the likeliest program among those that a network may be
SMALLEST = 1e-12


class FunctionVector(NamedTuple):
    """What an encoder says of a network.

    Attributes:
      vector: of length 1.
      accuracy: predicted, 0 to 1.
      kind: of the network, see `network_kind`.
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

    Networks are run in JAX where it has an accelerator, else in NumPy.

    Args:
      directory: holds `encoder.json` and `encoder.safetensors`, e.g. `runs/zoo/encoder_0`; see
        `wsrl.encoder.files.encoder_directory`.

    Raises:
      InputError: the encoder cannot be read.
    """

    def __init__(self, directory: str | Path = PRETRAINED):
        shape, params = read_encoder(Path(directory))
        self._prepare: Callable[[Network], Any] = dense_layers
        self._embed: Callable[[list], Encoding] = partial(_embed_in_numpy, shape, params)
        if has_accelerator() or shape.dtype != "float32":
            self._prepare, self._embed = _in_jax(shape, params)
        inputs = params["inputs"]
        self._images = cache(
            lambda size, count: Inputs(fit_inputs(inputs[:: max(1, len(inputs) // count)][:count], size))
        )

    def __call__(
        self, networks: Iterable[tuple[Checkpoint, Sequence[Program]]]
    ) -> Iterator[FunctionVector | CheckpointError]:
        """Yields the vector of each network, in their order, or why it has none; `WINDOW` are in memory at a time.

        A network whose file leaves its activation or the size of its images open has the mean of the unit vectors of
        the programs that it may be, that of the likeliest counted `WEIGHT` times.

        Args:
          networks: checkpoints, whose tensors are read when their turn comes, with the programs that each may be, the
            most usual first; see `wsrl.program.read.read_programs`.
        """
        remaining = iter(networks)
        while window := list(islice(remaining, WINDOW)):
            read = [self._read(checkpoint, programs) for checkpoint, programs in window]
            prepared = [one for entry in read if not isinstance(entry, CheckpointError) for one in entry[1]]
            rows = zip(*self._embed(prepared), strict=True) if prepared else iter(())
            for entry in read:
                if isinstance(entry, CheckpointError):
                    yield entry
                    continue
                program, own = entry
                vectors, accuracies = map(np.stack, zip(*islice(rows, len(own)), strict=True))
                mean = np.average(vectors, 0, [WEIGHT, *[1] * (len(own) - 1)])
                length = max(float(np.linalg.norm(mean)), SMALLEST)
                vector = (mean / length).astype(np.float32)
                yield FunctionVector(vector, float(accuracies[0]), network_kind(program.layers), program)

    def _read(self, checkpoint: Checkpoint, programs: Sequence[Program]) -> tuple[Program, list] | CheckpointError:
        """The likeliest program, and what is run of it, then of those beside it."""
        try:
            if programs[0].layers[-1].units < 2:  # all such networks would have one vector
                reason = "one output: what the encoder compares is how outputs differ"
                raise CheckpointError(checkpoint.path, reason, "search by weights")
            program = likeliest(checkpoint, programs, self._images)
            each = (program, *beside(program, programs))
            return program, [self._prepare(canonical_network(checkpoint, one)) for one in each]
        except CheckpointError as error:
            return error
        except Exception as error:  # of one network, which concerns no other
            return unexpected(checkpoint.path, error)


def _embed_in_numpy(shape: EncoderShape, params: dict[str, Any], networks: list[list[DenseLayer]]) -> Encoding:
    swept = sweep_networks(shape, params["inputs"], len(networks), networks.__getitem__)
    return read_swept(shape, params, swept)


def _in_jax(shape: EncoderShape, params: dict[str, Any]) -> tuple[Callable[[Network], Any], Callable[[list], Encoding]]:
    """How networks are prepared for programs of JAX, and embedded by them."""
    require("flax", "jax")
    from wsrl.encoder.embed import Embedder
    from wsrl.encoder.encoder import ResponseEncoder
    from wsrl.graph.collection import Planner
    from wsrl.graph.tiles import TILE, to_graph

    embedder, planner = Embedder(ResponseEncoder(**asdict(shape)), dense=False), Planner()
    return partial(to_graph, tile=TILE), lambda graphs: embedder(params, planner.buckets(graphs))
