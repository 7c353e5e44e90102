import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.reference import per_weight_batch, per_weight_sweep
from experiments.benchmarks.speed import forward_flops, fresh_network, median_seconds, table
from wsrl.encoder.sweep import forward_sweep, output_logits
from wsrl.graph.collection import make_buckets
from wsrl.graph.tiles import to_graph
from wsrl.zoo.models import MLP, CNNFlatten, CNNGap, ResNet, ViT

MODELS = (
    MLP("relu", widths=(9, 5)),
    CNNGap("tanh", widths=(4, 6), conv_strides=(2, 1)),
    CNNFlatten("gelu", widths=(3,), conv_strides=(2,), hidden=6),
    ResNet("relu", widths=(4, 4, 6), block_strides=(1, 1, 2)),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_one_edge_a_weight_is_the_same_sweep(model):
    networks = [fresh_network(model, seed, image_size=8) for seed in range(2)]
    (bucket,) = make_buckets([to_graph(network, 4) for network in networks], batch_cost=100_000)
    inputs = np.random.default_rng(0).standard_normal((3, 8, 8, 1), np.float32)

    @jax.jit
    def both(batch, plain, inputs):
        logits, _ = output_logits(batch)
        return logits(forward_sweep(batch, inputs))[:2, : model.num_classes], per_weight_sweep(plain, inputs)

    tiles, plain = both(bucket.batch([0, 1]), per_weight_batch(networks), inputs)
    np.testing.assert_allclose(tiles, plain, rtol=1e-5, atol=1e-6 * float(jnp.abs(plain).max()))


def test_one_edge_a_weight_refuses_attention():
    with pytest.raises(ValueError, match="linear layers only"):
        per_weight_batch([fresh_network(ViT("relu", widths=(4,), heads=2), 0)])


def test_flops_of_known_networks():
    assert forward_flops(fresh_network(MLP(widths=(8,)), 0)) == 2 * (256 * 8 + 8 * 5)
    convolution = CNNGap(widths=(4, 6), conv_strides=(2, 2))
    assert forward_flops(fresh_network(convolution, 0)) == 2 * (9 * 4 * 64 + 9 * 4 * 6 * 16 + 6 * 5)


def test_methods_take_turns_after_one_round_that_compiles():
    calls = []
    seconds = median_seconds({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert calls == list("ababab") and seconds.keys() == {"a", "b"}


def test_table_shows_what_was_not_measured_as_a_dash():
    lines = table("title", ("speed", "ratio"), {"mlp": (1234.4, float("nan"))}).splitlines()
    assert lines[-1].split() == ["mlp", "1234", "-"]


def test_benchmark_runs():
    command = [sys.executable, "-m", "experiments.benchmarks.speed", "--quick"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "programs compiled" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("mlp ")]
    assert [len(row) for row in rows] == [8, 9, 6]
    assert all(float(value) > 0 for row in rows for value in row[1:])
