"""Plain forms that the benchmark measures against: graphs with one edge a weight, and models trained one at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from wsrl.data import normalize
from wsrl.encoder.sweep import FUNCTIONS
from wsrl.program.layers import Layer, Link
from wsrl.program.network import Network
from wsrl.zoo.bank import ImageBank, draw_batches, run_arrays
from wsrl.zoo.recipes import Config, Run
from wsrl.zoo.stacked import initialize, train_model
from wsrl.zoo.training import Chunk


@flax.struct.dataclass
class Edges:
    """The weights of one link, of all networks of a batch.

    Attributes:
      weight: of each edge.
      row: which (neuron, position) of the source feeds each position of the receiver; the row after the last is zero.
      receiver: among the layer's neurons in all networks.
    """

    weight: Float[Any, "edges"]  # NumPy or JAX
    row: Int[Any, "edges positions"]
    receiver: Int[Any, "edges"]


@flax.struct.dataclass
class PerWeightBatch:
    """Networks of one architecture as a disjoint union.

    Attributes:
      edges: of each layer, of each link; None for an identity link.
      bias: of each layer's neurons in all networks.
      layers: of the architecture, without names of tensors; static.
    """

    edges: tuple[tuple[Edges | None, ...], ...]
    bias: tuple[Float[Any, "neurons"], ...]
    layers: tuple[Layer, ...] = flax.struct.field(pytree_node=False)


def per_weight_batch(networks: Sequence[Network]) -> PerWeightBatch:
    """Arranges networks of one architecture; raises ValueError if it has layers other than linear ones."""
    layers = tuple(layer.layer for layer in networks[0].layers)
    if any(layer.op not in ("input", "linear") for layer in layers):
        raise ValueError("one edge a weight covers linear layers only")
    edges, bias = [], []
    for i, layer in enumerate(layers):
        links = []
        for j, link in enumerate(layer.links):
            weights = [network.layers[i].weights[j] for network in networks]
            shared = link.source == 0  # all networks read the same inputs
            links.append(None if link.weight is None else _edges(weights, link, layer, layers[link.source], shared))
        edges.append(tuple(links))
        bias.append(np.concatenate([network.layers[i].bias for network in networks]).astype(np.float32))
    # hashable, as what is static to a compiled program must be
    layers = tuple(
        replace(layer, biases=(), norm=None, links=tuple(replace(link, weight=None) for link in layer.links))
        for layer in layers
    )
    return PerWeightBatch(tuple(edges), tuple(bias), layers)  # pyright: ignore[reportCallIssue]


def _edges(weights: Sequence, link: Link, layer: Layer, source: Layer, shared: bool) -> Edges:
    height, width = (1, 1) if source.pool else source.grid
    tap, neuron, unit = (index.ravel() for index in np.indices(weights[0].shape))
    y, x = np.divmod(np.arange(prod(layer.grid)), layer.grid[1])
    source_y = y * link.stride - link.padding + (tap // link.kernel[1])[:, None]
    source_x = x * link.stride - link.padding + (tap % link.kernel[1])[:, None]
    inside = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width)
    rows = source.units * height * width
    row = neuron[:, None] * height * width + source_y * width + source_x
    count = len(weights)
    offsets = np.zeros(count, int) if shared else np.arange(count) * rows
    empty = rows if shared else count * rows
    return Edges(
        weight=np.concatenate([weight.ravel() for weight in weights]).astype(np.float32),
        row=np.concatenate([np.where(inside, row + offset, empty) for offset in offsets]).astype(np.int32),
        receiver=np.concatenate([unit + n * layer.units for n in range(count)]).astype(np.int32),
    )  # pyright: ignore[reportCallIssue]


def per_weight_sweep(
    batch: PerWeightBatch, inputs: Float[Array, "probes height width channels"]
) -> Float[Array, "networks classes probes"]:
    """Sweeps inputs through the networks of a batch and returns their logits, as `wsrl.encoder.sweep` does on tiles.

    Every weight gathers its sender's map, shifted by its kernel tap, and multiplies it; a segment sum adds the messages
    of a receiver.
    """
    probes = len(inputs)
    states = [inputs.transpose(3, 1, 2, 0).reshape(inputs.shape[3], -1, probes)]  # [neurons, positions, probes]
    for layer, links, bias in zip(batch.layers[1:], batch.edges[1:], batch.bias[1:], strict=True):
        state = bias[:, None, None]
        for link, edges in zip(layer.links, links, strict=True):
            source = states[link.source]
            if edges is None:
                state = state + source
                continue
            rows = jnp.concatenate([source.reshape(-1, probes), jnp.zeros((1, probes))])
            message = rows[edges.row] * edges.weight[:, None, None]
            state = state + jraph.segment_sum(message, edges.receiver, len(bias))
        state = FUNCTIONS[layer.activation](state)
        states.append(state.mean(1, keepdims=True) if layer.pool else state)
    classes = batch.layers[-1].units
    return states[-1][:, 0].reshape(-1, classes, probes)


def one_program_a_model(chunk: Chunk, bank: ImageBank, config: Config) -> Callable[[], Any]:
    """The zoo's training of one model, jitted, called for each model."""
    model, program, images = chunk.model, jax.jit(train_model, static_argnums=0), jnp.asarray(bank.images)

    def train(run: Run) -> Any:
        variables = initialize(model, config.image_size, run.seed, run.init_scale)
        zeros = jax.tree.map(np.zeros_like, variables["params"])
        state = {"variables": variables, "first": zeros, "second": zeros, "step": np.int32(0)}
        batches = draw_batches(run, bank, config.steps, config.batch_size)
        return jax.device_get(program(model, state, batches, run_arrays(run, bank, config.steps), images))

    return lambda: [train(run) for run in chunk.runs]


def one_step_a_batch(chunk: Chunk, bank: ImageBank, config: Config) -> Callable[[], Any]:
    """A Python loop over batches with a jitted Optax step, and a jitted evaluation; for models without batch norm."""
    model, optimizer = chunk.model, optax.adamw(optax.cosine_decay_schedule(3e-3, config.steps))

    @jax.jit
    def step(params: Any, opt_state: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = model.apply({"params": params}, images, train=True, dropout=0.1, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()  # pyright: ignore[reportArgumentType]

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    evaluate = jax.jit(lambda params, images: model.apply({"params": params}, images))

    def train(run: Run) -> Any:
        params = initialize(model, config.image_size, run.seed, run.init_scale)["params"]
        opt_state, key = optimizer.init(params), jax.random.key(run.seed)
        for i, (rows, labels) in enumerate(zip(*draw_batches(run, bank, config.steps, config.batch_size), strict=True)):
            images = normalize(bank.images[rows])[..., None]
            params, opt_state = step(params, opt_state, images, labels, jax.random.fold_in(key, i))
        logits = evaluate(params, normalize(bank.images[bank.test[run.task][0]])[..., None])
        return jax.device_get((params, logits))

    return lambda: [train(run) for run in chunk.runs]
