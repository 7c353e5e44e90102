"""Trains one encoder on the networks of a zoo: inputs, sweeps, read-out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from wsrl.annotations import Config
from wsrl.encoder.embed import Batches, Embedder, SweptNetworks
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Encoding, Swept, no_answers
from wsrl.graph.collection import Bucket, make_buckets
from wsrl.training.discriminant_analysis import fit_readout
from wsrl.training.fit_accuracy import fit_accuracy
from wsrl.training.hosts import TOGETHER
from wsrl.training.loop import init_state, make_optimizer, make_train_step, train
from wsrl.training.sampling import Examples, Sampler

Validate = Callable[[Float[np.ndarray, "n dim"]], float]


class Fitted(NamedTuple):
    """A trained encoder and what it says of all networks.

    Attributes:
      params: of the encoder.
      swept: of all networks, in the order of the collection.
      encoding: of all networks.
      curve: rows of metrics, one a step.
    """

    params: Any
    swept: Swept
    encoding: Encoding
    curve: list[dict[str, float]]


def make_encoder(
    config: Config, input_shape: tuple[int, int, int], kind: type[ResponseEncoder] = ResponseEncoder
) -> ResponseEncoder:
    """The encoder, of a kind, of the section `encoder` of a configuration."""
    return kind(
        probes=config.probes,
        input_shape=input_shape,
        dim=config.dim,
        rank=config.rank,
        evidence=config.evidence,
        template=config.template,
        smoothing=config.smoothing,
        gradient_probes=config.gradient_probes,
        blur=config.blur,
        chunk=config.chunk,
        dtype=config.dtype,
    )


def init_params(encoder: ResponseEncoder, inputs: Float[np.ndarray, "probes height width channels"], seed: int) -> Any:
    """Draws parameters; the learned inputs start as given."""
    draw = jax.jit(encoder.init, static_argnames="method")
    params = draw(jax.random.key(seed), no_answers(encoder), method="read")["params"]
    return {**params, "inputs": jnp.asarray(inputs, jnp.float32)}


def fit_encoder(
    embedder: Embedder,
    params: Any,
    swept: Swept,
    buckets: Sequence[Bucket],
    examples: Examples,
    training: Int[np.ndarray, " m"],
    validate: Validate,
    config: Config,
    directory: Path,
    seed: int,
) -> Fitted:
    """Trains an encoder, with all processes of the job where there are several, and embeds all networks.

    The read-out starts from discriminant analyses of the training networks. Where the inputs are not learned, the
    sweeps that were done for it are all, and training is that of the read-out. Where they are, every step sweeps.
    The predicted accuracy is fitted last.

    Args:
      embedder: holds the compiled programs, shared by encoders of one shape.
      params: the initial parameters.
      swept: all networks, by the initial parameters.
      buckets: all networks; not used where the inputs are not learned.
      examples: of all networks.
      training: places of the networks to train on.
      validate: score of embeddings of all networks.
      config: the section `encoder`.
      directory: of this run's files.
      seed: of the batches.
    """
    devices = len(TOGETHER.devices)
    learn_inputs = config.input_learning_rate > 0
    if config.discriminants:
        params = fit_readout(embedder.encoder, params, swept, examples, training, config.shrinkage)

    def score(current: Any) -> float:
        encoding = embedder(current, buckets) if learn_inputs else embedder.read(current, swept)
        return validate(encoding.embedding)

    served: Sequence[Batches]
    if learn_inputs:
        chosen = [(b, np.flatnonzero(np.isin(b.members, training))) for b in buckets]
        graphs = [b.graphs[i] for b, places in chosen for i in places]
        members = np.concatenate([b.members[places] for b, places in chosen])
        per_bucket = max(1, config.batch_size // (devices * len(buckets)))
        served = [
            Bucket(members[b.members], b.graphs, b.plan, b.size)
            for b in make_buckets(graphs, batch_cost=np.iinfo(np.int64).max, max_size=per_bucket)
        ]
        method = "__call__"
    else:
        served = [SweptNetworks(swept, training, config.batch_size // devices)]
        method = "embed"
    sampler = Sampler(
        served, examples, config.tasks_per_batch, config.class_map_share, config.merge_share, devices, seed
    )
    optimizer = make_optimizer(config)
    step = make_train_step(
        lambda p, batch, class_map: cast(
            jax.Array, embedder.encoder.apply({"params": p}, batch, class_map, method=method)
        ),
        optimizer,
        config,
        TOGETHER,
    )
    name = f"encoder {seed}"
    best, curve = train(
        init_state(params, optimizer), step, sampler.sample, score, config, directory, name, hosts=TOGETHER
    )
    swept = embedder.sweep(best, buckets, f"sweep {seed}") if learn_inputs else swept
    best = fit_accuracy(embedder.encoder, best, swept, examples, training, config.accuracy_shrinkage)
    return Fitted(best, swept, embedder.read(best, swept), curve)
