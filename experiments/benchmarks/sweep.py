"""Networks a CPU second through the sweeps of an embedding, against running each network's own program.

Part of `python -m experiments.benchmarks.speed`.
"""

import time
from collections.abc import Sequence

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from wsrl.encoder.dense_layers import dense_layers
from wsrl.encoder.dense_sweep import Inputs, sweep_network
from wsrl.program.network import Network
from wsrl.zoo.models import Classifier
from wsrl.zoo.stacked import initialize

COLUMNS = ("forward", "plain", "ratio", "floor", "distance", "with templates", "floor", "distance", "GFLOP/s")


def cpu_seconds(methods: dict, rounds: int) -> dict[str, float]:
    """Median CPU time of each method; they take turns, and the first turn, which compiles, does not count."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, method in methods.items():
            start = time.process_time()
            jax.block_until_ready(method())
            if turn:
                times[name].append(time.process_time() - start)
    return {name: float(np.median(spent)) for name, spent in times.items()}


def sweep_speeds(
    model: Classifier,
    networks: Sequence[Network],
    flops: int,
    image_size: int,
    probes: int,
    gradient_probes: int,
    rounds: int,
) -> tuple[float, ...]:
    """Networks a CPU second on one thread, in the order of `COLUMNS`.

    Args:
      model: the architecture, whose Flax module, jitted and run for one network after another, is the baseline.
      networks: of the architecture.
      flops: of a network's forward pass on one input.
      image_size: pixels a side.
      probes: images that are swept forward.
      gradient_probes: the first of them, which are swept backward for the templates.
      rounds: of which medians are taken.

    Returns:
      Forward alone: the sweep, the baseline, their ratio, the floor (the FLOP of the networks' own forward passes at
      the rate of a matrix product) and the distance to it. With templates: the sweep, the floor (a backward pass for
      each class has the FLOP of a forward pass) and the distance. At last the rate, in GFLOP/s.
    """
    images = np.random.default_rng(0).standard_normal((probes, image_size, image_size, 1), np.float32)
    pulled, others = Inputs(images[:gradient_probes]), Inputs(images[gradient_probes:])
    dense = [dense_layers(network) for network in networks]
    variables = [initialize(model, image_size, seed, 1.0) for seed in range(len(networks))]
    apply, size = jax.jit(model.apply), 1024
    square = np.random.default_rng(0).standard_normal((size, size), np.float32)
    with threadpool_limits(1, "blas"):
        seconds = cpu_seconds(
            {
                "forward": lambda: [sweep_network(network, pulled, others, gradients=False) for network in dense],
                "both": lambda: [sweep_network(network, pulled, others) for network in dense],
                "plain": lambda: [apply(own, images) for own in variables],
                "product": lambda: square @ square,
            },
            rounds,
        )
    rate = 2 * size**3 / seconds["product"]
    forward, both, plain = (len(networks) / seconds[name] for name in ("forward", "both", "plain"))
    floor = rate / (flops * probes)
    both_floor = rate / (flops * (probes + gradient_probes * networks[0].layers[-1].layer.units))
    return forward, plain, forward / plain, floor, floor / forward, both, both_floor, both_floor / both, rate / 1e9
