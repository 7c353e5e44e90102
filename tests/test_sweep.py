import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from networks import CASES, SIZE, draw_model, draw_network, in_torch_names, logits

from wsrl.encoder.sweep import forward_sweep, output_logits
from wsrl.graph.batching import make_batch
from wsrl.graph.collection import checkpoint_graph, make_buckets, sweep_cost
from wsrl.graph.neurons import neuron_graph
from wsrl.graph.plans import make_plan, profile
from wsrl.program.network import canonical_network
from wsrl.program.read import read_program
from wsrl.zoo.models import MLP, CNNGap, SequenceTransformer

IMAGES = np.random.default_rng(1).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)


@jax.jit
def swept_logits(batch, images):
    read, mask = output_logits(batch)
    return read(forward_sweep(batch, images)), mask


@pytest.fixture(scope="module")
def networks():
    return [draw_network(*case) for case in CASES]


@pytest.fixture(scope="module", params=[16, 32])
def buckets(request, networks):
    graphs = [checkpoint_graph(checkpoint, request.param) for checkpoint, _ in networks]
    return make_buckets(graphs, batch_cost=20_000, slack=50.0)


def test_the_sweep_computes_what_every_network_computes(networks, buckets):
    """Padding, batching with other architectures and tiling change nothing."""
    seen = set()
    for bucket in buckets:
        for first in range(0, len(bucket.members), bucket.size):
            places = list(range(first, min(first + bucket.size, len(bucket.members))))
            found, mask = swept_logits(bucket.batch(places), IMAGES)
            for row, member in enumerate(bucket.members[places]):
                expected = logits(*CASES[member], networks[member][1], IMAGES)
                np.testing.assert_allclose(found[row, :5].T, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
                assert mask[row].sum() == 5
                seen.add(member)
            assert mask[len(places) :].sum() == 0
    assert seen == set(range(len(CASES)))


@pytest.mark.parametrize(
    "model",
    [
        MLP("leaky_relu", widths=(40,) * 12),
        CNNGap("silu", widths=(8, 256), conv_strides=(4, 4)),
        SequenceTransformer("leaky_relu", widths=(8,)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_deep_wide_and_sequential_networks_are_swept_exactly(model):
    checkpoint, variables = draw_model(model)
    bucket = make_buckets([checkpoint_graph(checkpoint, 16)])[0]
    found, _ = swept_logits(bucket.batch([0]), IMAGES)
    expected = np.asarray(model.apply(variables, IMAGES))
    np.testing.assert_allclose(found[0, :5].T, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_few_buckets_hold_all_architectures(networks):
    graphs = [checkpoint_graph(checkpoint, 16) for checkpoint, _ in networks]
    for slack in (1.0, 2.0, 50.0):
        buckets = make_buckets(graphs, slack=slack)
        members = np.concatenate([b.members for b in buckets])
        assert sorted(members) == list(range(len(graphs)))
        for bucket in buckets:
            padded = sum(level.edges * level.positions for level in bucket.plan.levels) / bucket.size
            assert all(padded <= slack * sweep_cost(profile(g)) + 1e-9 for g in bucket.graphs)
    assert len(buckets) <= 3


def reference_states(network, images):
    """States of all neurons by messages over one edge a weight: jraph's segment sum of weight times shifted state."""
    graph = neuron_graph(network)
    start = np.cumsum([0] + [layer.layer.units for layer in network.layers])
    states = {0: jnp.asarray(images.transpose(3, 1, 2, 0).reshape(images.shape[3], -1, len(images)))}
    grids = {0: network.layers[0].layer.grid}
    for i, layer in enumerate(network.layers[1:], start=1):
        height, width = layer.layer.grid
        y, x = np.divmod(np.arange(height * width), width)
        total = jnp.asarray(layer.bias, jnp.float32)[:, None, None]
        for link in layer.layer.links:
            edge = (graph.receivers >= start[i]) & (graph.receivers < start[i + 1])
            edge &= (graph.senders >= start[link.source]) & (graph.senders < start[link.source + 1])
            tap = graph.edges.tap[edge]
            source_height, source_width = grids[link.source]
            rows = y * link.stride + (tap // link.kernel[1])[:, None] - link.padding
            columns = x * link.stride + (tap % link.kernel[1])[:, None] - link.padding
            inside = (rows >= 0) & (rows < source_height) & (columns >= 0) & (columns < source_width)
            place = np.where(inside, rows * source_width + columns, 0)
            sender = graph.senders[edge] - start[link.source]
            carried = states[link.source][sender[:, None], place] * inside[:, :, None]
            message = graph.edges.weight[edge][:, None, None] * carried
            total = total + jraph.segment_sum(message, graph.receivers[edge] - start[i], layer.layer.units)
        state = getattr(jax.nn, layer.layer.activation)(total)
        states[i] = state.mean(1, keepdims=True) if layer.layer.pool else state
        grids[i] = (1, 1) if layer.layer.pool else layer.layer.grid
    return states


@pytest.mark.parametrize("case", [("mlp", 1), ("cnn_flatten", 0), ("resnet", 0)])
def test_tiles_agree_with_one_edge_a_weight(case):
    checkpoint, _ = draw_network(*case)
    network = canonical_network(checkpoint, read_program(checkpoint))
    expected = reference_states(network, IMAGES)
    graph = checkpoint_graph(checkpoint, 16)
    batch = make_batch([graph, graph], make_plan(profile(graph), 3, 16))
    states = jax.jit(forward_sweep)(batch, IMAGES)
    for level, state in zip(batch.schedule, states, strict=True):
        layers = batch.graph.nodes.layer[level.node]
        for i in np.unique(layers[level.graph == 1]):
            tiles = np.asarray(state)[(level.graph == 1) & (layers == i)]
            found = tiles.reshape(-1, *tiles.shape[2:])[: network.layers[i].layer.units, : expected[i].shape[1]]
            np.testing.assert_allclose(found, expected[i], rtol=1e-4, atol=1e-5 * float(jnp.abs(expected[i]).max()))


def test_torch_names_give_the_same_sweep():
    for family, variant in (("cnn_flatten", 1), ("resnet", 2)):
        checkpoint, _ = draw_network(family, variant)
        graphs = [checkpoint_graph(c, 16) for c in (checkpoint, in_torch_names(checkpoint, family))]
        jax.tree.map(np.testing.assert_array_equal, *graphs)


def test_a_plan_refuses_what_it_does_not_hold():
    small, large = (checkpoint_graph(draw_network("mlp", v)[0], 16) for v in (1, 0))
    plan = make_plan(profile(small), 1, 16)
    with pytest.raises(ValueError, match="do not fit into a plan for 1"):
        make_batch([small, small], plan)
    with pytest.raises(ValueError, match="does not fit into the plan"):
        make_batch([large], make_plan(profile(small), 1, 16))
