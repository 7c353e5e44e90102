"""The sweeps of a finished run done again, with something changed about inputs or networks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.tables.finished_run import FinishedRun
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.sweep import States, input_rows, update_level
from wsrl.encoder.swept import Swept
from wsrl.errors import InputError
from wsrl.graph.batching import Batch
from wsrl.graph.collection import Bucket
from wsrl.graph.tiles import TileGraph
from wsrl.program.layers import ACTIVATIONS
from wsrl.training.fit import make_encoder
from wsrl.training.response_cache import sweep_zoo
from wsrl.zoo.manifest import read_manifest

NOISE, RELU, ROUNDS, NO_MAPS = "noise", "relu", "rounds", "no_maps"
COUNT = 4  # rounds


class _Relu(Embedder):
    """Sweeps as if nobody had told the activations: all that are not the identity are taken for ReLU."""

    def sweep(self, params: Any, buckets: Sequence[Bucket], progress: str | None = None) -> Swept:
        changed = [replace(bucket, graphs=tuple(map(with_relu, bucket.graphs))) for bucket in buckets]
        return super().sweep(params, changed, progress)


class RoundsEncoder(ResponseEncoder):
    """Synchronous message passing: each of `COUNT` rounds updates all neurons from their states before it.

    A neuron more than `COUNT` levels from the inputs hears nothing of them.
    """

    @nn.nowrap
    def respond(
        self,
        batch: Batch,
        inputs: Float[Array, "probes height width channels"],
        shift: Float[Array, "networks pixels"] | None = None,
    ) -> States:
        """States after the last round; before the first they are zero."""
        rows, levels = input_rows(inputs, batch.plan), range(len(batch.plan.levels))
        shapes = [(spec.nodes, batch.plan.tile, spec.positions, rows.shape[1]) for spec in batch.plan.levels]
        start = [jnp.zeros(shape, inputs.dtype) for shape in shapes]

        def one_round(states: States, _: None) -> tuple[States, None]:
            return [update_level(batch, level, rows, states, shift) for level in levels], None

        return jax.lax.scan(one_round, start, None, length=COUNT)[0]


class NoMapsEncoder(ResponseEncoder):
    """Neurons have one state instead of a map: that of a channel or a token's unit is its mean over positions.

    So the taps of a kernel, or the places of a flattened map, all read the same.
    """

    @nn.nowrap
    def respond(
        self,
        batch: Batch,
        inputs: Float[Array, "probes height width channels"],
        shift: Float[Array, "networks pixels"] | None = None,
    ) -> States:
        """States of all neurons, each constant over the positions that exist."""
        rows = input_rows(inputs, batch.plan)
        states: States = []
        for level, schedule in enumerate(batch.schedule):
            found = update_level(batch, level, rows, states, shift)
            nodes = batch.graph.nodes
            grid, pool = nodes.grid[schedule.node], nodes.pool[schedule.node]
            area = jnp.where(pool == 1, 1, grid.prod(-1))[:, None, None, None]
            exists = jnp.arange(found.shape[2])[:, None] < area
            states.append(found.sum(2, keepdims=True) / jnp.maximum(area, 1) * exists)
        return states


VARIANTS = {ROUNDS: RoundsEncoder, NO_MAPS: NoMapsEncoder}


def with_relu(graph: TileGraph) -> TileGraph:
    """A graph whose activations are ReLU, but for the identity."""
    own = graph.nodes.activation
    relu = np.where(own == ACTIVATIONS.index("identity"), own, ACTIVATIONS.index("relu")).astype(own.dtype)
    return graph._replace(nodes=replace(graph.nodes, activation=relu))


def resweep(run: FinishedRun, seed: int, change: str) -> Swept:
    """Sweeps the zoo of a run again and keeps the result in the run's folder.

    Args:
      run: finished.
      seed: of the encoder whose inputs are swept.
      change: NOISE sweeps normal noise of the inputs' mean and variance in their place, RELU takes every activation for
        ReLU, ROUNDS and NO_MAPS sweep as `RoundsEncoder` and `NoMapsEncoder` do.

    Raises:
      InputError: other networks are usable than were in the run.
    """
    encoder, params = run.encoders[seed]
    if change == NOISE:
        inputs = np.asarray(params["inputs"])
        noise = np.random.default_rng([seed, 11]).normal(inputs.mean(), inputs.std(), inputs.shape)
        params = {**params, "inputs": jnp.asarray(noise, jnp.float32)}
    encoder = make_encoder(run.config.encoder, encoder.input_shape, VARIANTS.get(change, ResponseEncoder))
    embedder = _Relu(encoder) if change == RELU else Embedder(encoder, dense=False if change in VARIANTS else None)
    directory = run.workdir / "resweep" / change / f"encoder_{seed}"
    records, _ = read_manifest(run.zoo)
    jax.clear_caches()  # programs of several sweeps together are more than a process may map
    found = sweep_zoo(embedder, [params], run.zoo, records, run.config.encoder, [directory])
    if [record.id for record in found.records] != [record.id for record in run.records]:
        raise InputError(run.zoo, "has changed since the run", "run experiments.main with this --workdir again")
    return found.swept[0]
