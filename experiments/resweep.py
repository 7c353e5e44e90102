"""The sweeps of a finished run done again, with something changed about inputs or networks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.finished_run import FinishedRun
from wsrl.annotations import Graph
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import Swept
from wsrl.encoder.swept_zoo import sweep_zoo
from wsrl.errors import InputError
from wsrl.graph.collection import Bucket
from wsrl.wiring.layers import ACTIVATIONS
from wsrl.zoo.manifest import read_manifest

NOISE, RELU = "noise", "relu"


class _Relu(Embedder):
    """Sweeps as if nobody had told the activations: all that are not the identity are taken for ReLU."""

    def sweep(self, params: Any, buckets: Sequence[Bucket], progress: str | None = None) -> Swept:
        changed = [replace(bucket, graphs=tuple(map(with_relu, bucket.graphs))) for bucket in buckets]
        return super().sweep(params, changed, progress)


def with_relu(graph: Graph) -> Graph:
    """A graph whose activations are ReLU, but for the identity."""
    own = graph.nodes["activation"]
    relu = np.where(own == ACTIVATIONS.index("identity"), own, ACTIVATIONS.index("relu")).astype(own.dtype)
    return graph._replace(nodes={**graph.nodes, "activation": relu})


def resweep(run: FinishedRun, seed: int, change: str) -> Swept:
    """Sweeps the zoo of a run again and keeps the result in the run's folder.

    Args:
      run: finished.
      seed: of the encoder whose inputs are swept.
      change: NOISE sweeps normal noise of the inputs' mean and variance in their place, RELU takes every activation for
        ReLU.

    Raises:
      InputError: other networks are usable than were in the run.
    """
    encoder, params = run.encoders[seed]
    if change == NOISE:
        inputs = np.asarray(params["inputs"])
        noise = np.random.default_rng([seed, 11]).normal(inputs.mean(), inputs.std(), inputs.shape)
        params = {**params, "inputs": jnp.asarray(noise, jnp.float32)}
    embedder = _Relu(encoder) if change == RELU else Embedder(encoder)
    directory = run.workdir / "resweep" / change / f"encoder_{seed}"
    records, _ = read_manifest(run.zoo)
    found = sweep_zoo(embedder, [params], run.zoo, records, run.config.encoder, [directory])
    if [record.id for record in found.records] != [record.id for record in run.records]:
        raise InputError(run.zoo, "has changed since the run", "run experiments.main with this --workdir again")
    return found.swept[0]
