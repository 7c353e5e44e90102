"""The sweeps in NumPy answer and have the gradients that those in JAX do, which are tested against the models' own."""

import jax
import numpy as np
import pytest
from networks import CASES, NAMES, SIZE, draw_model, draw_network
from test_pooling import CASES as POOLED
from test_pooling import network as pooled_network

from wsrl.encoder import dense_sweep
from wsrl.encoder.dense_network import dense_network
from wsrl.encoder.dense_sweep import Inputs, sweep_network
from wsrl.encoder.sweep import class_gradients, forward_sweep, output_logits
from wsrl.graph.batching import make_batch
from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.plans import make_plan, profile
from wsrl.graph.tiles import to_graph
from wsrl.program.network import read_network
from wsrl.zoo.models import CNNGap, SequenceTransformer

PULLED, OTHERS = 4, 5
DRAWN = dict(zip(NAMES, CASES, strict=True)) | {
    "strides": CNNGap("silu", widths=(8, 40), conv_strides=(4, 3)),
    "rows": SequenceTransformer("leaky_relu", widths=(8,)),
}


@jax.jit
def reference(batch, pulled, others):
    read, mask = output_logits(batch)
    answers = [read(forward_sweep(batch, images))[0] for images in (pulled, others)]
    return *answers, class_gradients(batch, pulled[None])[0], mask[0]


def agree(graph, channels, size=SIZE):
    images = np.random.default_rng(1).normal(size=(PULLED + OTHERS, size, size, channels)).astype(np.float32)
    batch = make_batch([graph], make_plan(profile(graph), 1, 16))
    first, second, gradients, mask = map(np.asarray, reference(batch, images[:PULLED], images[PULLED:]))
    classes, network = int(mask.sum()), dense_network(graph)
    logits = np.concatenate([first, second], 1)[:classes]
    answers, slopes = sweep_network(network, Inputs(images[:PULLED]), Inputs(images[PULLED:]))
    np.testing.assert_allclose(answers, logits, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_allclose(slopes, gradients[:classes], atol=1e-5 * np.abs(gradients).max())
    assert np.abs(gradients).max() > 1e-4
    return network, images, answers, slopes


@pytest.mark.parametrize("name", DRAWN)
def test_numpy_and_jax_sweep_alike(name):
    drawn = DRAWN[name]
    checkpoint, _ = draw_network(*drawn) if isinstance(drawn, tuple) else draw_model(drawn)
    agree(checkpoint_graph(checkpoint, 16), 1)


@pytest.mark.parametrize("case", [POOLED[1], POOLED[4], POOLED[6]], ids=str)
def test_windows_are_pooled_alike(case):
    program, checkpoint, _ = pooled_network(*case)
    agree(to_graph(read_network(checkpoint, program), 16), 2, 11)


def test_chunks_change_nothing_and_inputs_serve_networks_of_other_shapes(monkeypatch):
    graphs = [checkpoint_graph(draw_network(*CASES[NAMES.index(name)])[0], 16) for name in ("cnn_gap-relu", "vit-gelu")]
    whole = [agree(graph, 1) for graph in graphs]
    images = whole[0][1]
    monkeypatch.setattr(dense_sweep, "CHUNK_SIZE", 2**11)
    monkeypatch.setattr(dense_sweep, "KEPT_SIZE", 2**12)
    pulled, others = Inputs(images[:PULLED]), Inputs(images[PULLED:])
    for network, _, answers, slopes in [*whole, *whole]:
        found = sweep_network(network, pulled, others)
        np.testing.assert_allclose(found[0], answers, atol=1e-5 * np.abs(answers).max())
        np.testing.assert_allclose(found[1], slopes, atol=1e-5 * np.abs(slopes).max())
    alone, none = sweep_network(whole[0][0], pulled, None, gradients=False)
    np.testing.assert_allclose(alone, whole[0][2][:, :PULLED], atol=1e-5 * np.abs(alone).max())
    assert not none.any()
