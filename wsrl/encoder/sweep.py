"""Sweeps: states of neurons are carried through a network in the order of its layers.

The state of a neuron is a map of `positions` x `probes` numbers: its response to learned inputs. Forward, a level of
the graph reads the states of the levels before it through its weight tiles and applies the layer's own
activation, so the response of the network to the inputs is computed exactly. Backward, a cotangent at the output
neurons is carried to the inputs; this is the vector-Jacobian product of the forward sweep.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, Int

from wsrl.encoder.dense_sweep import LAYER_NORM_EPSILON
from wsrl.graph.batching import Batch, LevelSchedule
from wsrl.graph.plans import ATTENTION, MAX, NORM, Plan
from wsrl.program.layers import ACTIVATIONS

FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "leaky_relu": jax.nn.leaky_relu,
}
MASKED = -1e9  # logit of a position that does not exist

States = list[Float[Array, "_nodes tile _positions probes"]]


def input_rows(inputs: Float[Array, "probes height width channels"], plan: Plan) -> Float[Array, "rows probes"]:
    """One row a pixel and channel, then the one-hot positions of position embeddings."""
    rows = inputs.transpose(3, 1, 2, 0).reshape(-1, inputs.shape[0])
    if plan.position_embedding is None:
        return rows
    count = plan.position_embedding[0] * plan.position_embedding[1]
    one_hot = jnp.eye(count, dtype=rows.dtype).reshape(-1, 1)
    return jnp.concatenate([rows, jnp.broadcast_to(one_hot, (count * count, inputs.shape[0]))])


def activate(
    pre: Float[Array, "nodes tile positions probes"], kind: Int[Array, "nodes"], occurring: Sequence[int]
) -> Float[Array, "nodes tile positions probes"]:
    """Applies each node's own activation; `kind` and `occurring` are indices of `ACTIVATIONS`."""
    if len(occurring) == 1:
        return FUNCTIONS[ACTIVATIONS[occurring[0]]](pre)
    out = jnp.zeros_like(pre)
    for index in occurring:
        # masked before as well as after, so that no branch's gradient meets an overflow of another's
        chosen = (kind == index)[:, None, None, None]
        out = jnp.where(chosen, FUNCTIONS[ACTIVATIONS[index]](jnp.where(chosen, pre, 0.0)), out)
    return out


def normalize(
    pre: Float[Array, "nodes tile positions probes"], mask: Float[Array, "nodes tile"], layer: Int[Array, "nodes"]
) -> Float[Array, "nodes tile positions probes"]:
    """Layer norm over all units of each layer, at every position."""
    weight = mask[:, :, None, None]
    count = jraph.segment_sum(mask.sum(1), layer, len(pre))[layer][:, None, None, None]
    count = jnp.maximum(count, 1.0)
    mean = jraph.segment_sum((pre * weight).sum(1), layer, len(pre))[layer][:, None] / count
    centered = (pre - mean) * weight
    variance = jraph.segment_sum(jnp.square(centered).sum(1), layer, len(pre))[layer][:, None] / count
    return centered * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)


def largest_message(
    message: Float[Array, "edges tile positions probes"], level: LevelSchedule, empty: int, nodes: int
) -> Float[Array, "nodes tile positions probes"]:
    """Largest of the messages that reach each node, unit by unit, for nodes whose edges carry one unit to one.

    What lies outside of the sender's map is no message. As where JAX differentiates `reduce_window`, the gradient goes
    to the first of equals.
    """
    inside = (level.slot_row != empty)[..., None]
    message = jnp.where(inside, message, -jnp.inf)
    largest = jax.lax.stop_gradient(jraph.segment_max(message, level.receiver, nodes))
    edge = jnp.arange(len(message))[:, None, None, None]
    chosen = jnp.where(message == largest[level.receiver], edge, len(message))
    first = jraph.segment_min(chosen, level.receiver, nodes)
    taken = jnp.where((edge == first[level.receiver]) & inside, message, 0.0)
    return jraph.segment_sum(taken, level.receiver, nodes)


def attend(
    source: Float[Array, "nodes tile positions probes"],
    level: LevelSchedule,
    mask: Float[Array, "attention tile"],
    positions: Int[Array, "attention"],
    dim: Float[Array, "attention"],
) -> Float[Array, "attention tile positions probes"]:
    """Softmax attention over positions, head by head; a head may be several tiles."""
    query, key, value = (source[level.attention_source[:, i]] for i in range(3))
    heads = level.attention_head
    scores = jnp.einsum("atxp,atyp->apxy", query * mask[:, :, None, None], key)
    scores = jraph.segment_sum(scores, heads, len(heads))[heads] / jnp.sqrt(dim)[:, None, None, None]
    exists = jnp.arange(source.shape[2]) < positions[:, None]
    scores = jnp.where(exists[:, None, None, :], scores, MASKED)
    return jnp.einsum("apxy,atyp->atxp", jax.nn.softmax(scores, axis=-1), value)


def forward_sweep(
    batch: Batch,
    inputs: Float[Array, "probes height width channels"],
    shift: Float[Array, "networks pixels"] | None = None,
) -> States:
    """Computes the states of all levels from the inputs.

    Args:
      batch: networks of one plan.
      inputs: what the networks are fed; height, width and channels are the plan's.
      shift: added to every input of each network, one row a channel and pixel; the gradient with respect to it is that
        at the inputs, which the networks of a batch share.

    Returns:
      One array a level; padding units and positions are zero, and a pooled map holds its mean at position 0.
    """
    rows = input_rows(inputs, batch.plan)
    states: States = []
    for level in range(len(batch.plan.levels)):
        states.append(update_level(batch, level, rows, states, shift))
    return states


def update_level(
    batch: Batch,
    number: int,
    inputs: Float[Array, "rows probes"],
    states: States,
    shift: Float[Array, "networks pixels"] | None = None,
) -> Float[Array, "nodes tile positions probes"]:
    """Computes the states of one level from those of others.

    Args:
      batch: networks of one plan.
      number: of the level, 0 for the first after the inputs.
      inputs: see `input_rows`.
      states: of levels, at least of those before this one.
      shift: see `forward_sweep`.
    """
    nodes, plan = batch.graph.nodes, batch.plan
    spec, level = plan.levels[number], batch.schedule[number]
    probes = inputs.shape[1]
    node = jax.tree.map(lambda values: values[level.node], nodes)
    node = node.replace(**{key: getattr(node, key).astype(inputs.dtype) for key in ("mask", "gain", "bias")})
    area = node.grid.prod(-1)
    exists = (jnp.arange(spec.positions) < area[:, None])[:, None, :, None] * node.mask[:, :, None, None]
    pre = jnp.zeros((spec.nodes, plan.tile, spec.positions, probes), inputs.dtype)
    if spec.edges:
        rows = [states[source - 1].reshape(-1, probes) if source else inputs for source in spec.sources]
        buffer = jnp.concatenate([*rows, jnp.zeros((1, probes), inputs.dtype)])
        slots = buffer.at[level.slot_row].get(mode="promise_in_bounds")
        if shift is not None and spec.sources[0] == 0:
            owner = level.graph[level.receiver][:, None, None]
            slots += shift.at[owner, level.slot_row].get(mode="fill", fill_value=0)[..., None]
        weight = batch.graph.edges.weight[level.edge].astype(inputs.dtype)
        message = jnp.einsum("esxp,esu->euxp", slots, weight)
        pre = jraph.segment_sum(message, level.receiver, spec.nodes)
        if spec.maximum:
            largest = largest_message(message, level, len(buffer) - 1, spec.nodes)
            pre = jnp.where((node.op == MAX)[:, None, None, None], largest, pre)
    if spec.norm:
        is_norm = (node.op == NORM)[:, None, None, None]
        pre = jnp.where(is_norm, normalize(pre, node.mask, level.layer), pre)
        pre = pre * node.gain[:, :, None, None]
    if spec.attention:
        at = level.attention_node
        units = jraph.segment_sum(node.mask[at].sum(1), level.attention_head, spec.attention)
        dim = jnp.maximum(units[level.attention_head], 1.0)
        attended = attend(states[number - 1], level, node.mask[at], area[at], dim)
        pre = pre.at[at].add(jnp.where((node.op[at] == ATTENTION)[:, None, None, None], attended, 0.0))
    pre = pre + node.bias[:, :, None, None]
    state = activate(pre, node.activation, spec.activations) * exists
    if spec.pool:
        pooled = jnp.zeros_like(state).at[:, :, 0].set(state.sum(2) / jnp.maximum(area, 1)[:, None, None])
        state = jnp.where((node.pool == 1)[:, None, None, None], pooled, state)
    return state


def output_logits(
    batch: Batch,
) -> tuple[Callable[[States], Float[Array, "networks classes probes"]], Float[Array, "networks classes"]]:
    """Returns how to read the logits off the states of all levels, and the mask of the classes that exist.

    The last network is padding. A network whose outputs keep a map is read at its first position.
    """
    level, plan = batch.schedule[-1], batch.plan
    networks = plan.graphs + 1
    tiles = batch.graph.nodes.index[level.node]

    def spread(values: Float[Array, "nodes tile *rest"]) -> Float[Array, "networks classes *rest"]:
        empty = jnp.zeros((networks, plan.outputs, *values.shape[1:]), values.dtype)
        return empty.at[level.graph, tiles].add(values).reshape(networks, -1, *values.shape[2:])

    return lambda states: spread(states[-1][:, :, 0]), spread(batch.graph.nodes.mask[level.node])


def class_gradients(
    batch: Batch,
    chunks: Float[Array, "chunks probes height width channels"],
    respond: Callable[[Batch, Array, Array], States] = forward_sweep,
) -> Float[Array, "networks classes rows"]:
    """Gradient of each class's logit, less the mean of the classes', with respect to the input, averaged over inputs.

    One row a channel and pixel, as in `input_rows`. The networks of a batch share their inputs, so each gets a shift of
    its own, which is added to all of its inputs; the gradient with respect to it is the sum over them. `respond` finds
    the states, as `forward_sweep` does.
    """
    logits, mask = output_logits(batch)
    share = mask / jnp.maximum(mask.sum(1, keepdims=True), 1.0)
    none = jnp.zeros((len(mask), math.prod(batch.plan.input_shape)), chunks.dtype)

    def of_chunk(inputs: Array) -> Array:
        def centered(shift: Array) -> Array:
            found = logits(respond(batch, inputs, shift)).mean(2)
            return found - (found * share).sum(1, keepdims=True)

        outputs, pull = jax.vjp(centered, none)
        one_class = jnp.eye(outputs.shape[1], dtype=outputs.dtype)[: batch.plan.classes]
        return jax.lax.map(lambda row: pull(row * mask.astype(row.dtype))[0], one_class)

    found = jax.lax.map(of_chunk, chunks).mean(0)
    return jnp.pad(found.swapaxes(0, 1), [(0, 0), (0, mask.shape[1] - found.shape[0]), (0, 0)])
