"""Speed of what the main job spends its time on, each beside a named baseline measured in the same run.

python -m experiments.benchmarks.speed

Four tables: networks a CPU second through the sweeps of an embedding, against each network's own jitted program and
against the floor that the networks' own arithmetic sets; training steps of the encoder against the same sweep with
one edge a weight and against the synchronous GNN; networks a second against the same floor; training of stacked models
against training them one after another. Networks are freshly initialized. Times are medians over rounds in which the
methods take turns, after a round that compiles.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from configs import zoo
from experiments.benchmarks.reference import (
    PerWeightBatch,
    one_program_a_model,
    one_step_a_batch,
    per_weight_batch,
    per_weight_sweep,
)
from experiments.benchmarks.sweep import COLUMNS, sweep_speeds
from wsrl.baselines.gnn import SynchronousGNN, make_neuron_buckets
from wsrl.checkpoint import Checkpoint
from wsrl.data import load_image_set
from wsrl.encoder.embed import Embedder, SweptNetworks
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.sweep import forward_sweep, output_logits
from wsrl.encoder.swept import Swept
from wsrl.graph.batching import Batch
from wsrl.graph.collection import make_buckets
from wsrl.graph.neurons import neuron_graph
from wsrl.graph.tiles import to_graph
from wsrl.program.network import Network, canonical_network
from wsrl.program.read import read_program
from wsrl.training.fit import init_params, make_encoder
from wsrl.training.loop import init_state, make_optimizer, make_train_step
from wsrl.training.sampling import PADDING, Targets
from wsrl.zoo.bank import image_bank
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.models import Classifier, CNNGap
from wsrl.zoo.recipes import Config, draw_runs
from wsrl.zoo.stacked import initialize
from wsrl.zoo.tasks import draw_tasks
from wsrl.zoo.training import Chunk, train_chunk

PER_WEIGHT = "one edge a weight"
COMPILED = "/jax/core/compile/backend_compile_duration"


class Settings(NamedTuple):
    """Sizes of the benchmark.

    Attributes:
      families: of the encoder's networks, the first variant of each.
      networks: of a family, a training step.
      probes: learned inputs.
      sweep_probes: inputs of the sweeps of an embedding.
      rounds: of which the median is taken.
      zoo_families, zoo_models, zoo_steps: what the zoo's trainer trains, models of each family.
    """

    families: tuple[str, ...] = ("mlp", "cnn_gap", "resnet", "vit")
    networks: int = 32
    probes: int = 128
    sweep_probes: int = 384
    rounds: int = 3
    zoo_families: tuple[str, ...] = ("mlp", "cnn_gap")
    zoo_models: int = 26
    zoo_steps: int = 60


SMALL = Settings(("mlp",), 4, 16, 24, 1, ("mlp",), 2, 4)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.speed", description="Measures speed.")
    parser.add_argument("--quick", action="store_true", help="few networks and rounds: whether it runs, not how fast")
    args = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)  # as the main job does
    for part in measure(SMALL if args.quick else Settings()):
        print(part, flush=True)


def measure(settings: Settings) -> Iterator[str]:
    """Yields the tables, each as soon as it is measured."""
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(duration_secs) if event == COMPILED else None
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    yield f"{jax.device_count()} {jax.devices()[0].device_kind} devices, {os.cpu_count()} cores, load before {load}"
    yield sweep_table(settings)
    yield from encoder_tables(settings)
    yield zoo_table(settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield f"\n{len(compiled)} programs compiled in {sum(compiled):.0f} s; peak memory {peak:.1f} GiB"


def median_seconds(methods: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median time of each method; they take turns, so that whatever else the machine does slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            jax.block_until_ready(method())
            if turn:  # the first compiles
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(found)) for name, found in times.items()}


def matrix_product() -> tuple[Callable[[], Any], int]:
    """A product of two square matrices on each device, and its FLOP: what the machine can do at its best."""
    devices, size = jax.local_device_count(), 1024
    product = jax.pmap(lambda x: x @ x)
    matrices = jax.pmap(lambda key: jax.random.normal(key, (size, size)))(jax.random.split(jax.random.key(0), devices))
    return lambda: product(matrices), devices * 2 * size**3


def fresh_network(model: Classifier, seed: int, image_size: int = 16) -> Network:
    """Canonical form of a freshly initialized model of the zoo, by way of its checkpoint."""
    flat = flax.traverse_util.flatten_dict(initialize(model, image_size, seed, 1.0), sep="/")
    tensors = {name: array for name, array in flat.items() if isinstance(array, np.ndarray)}
    shape = (image_size, image_size, 1)
    hints = {"activation": model.activation, "input_shape": shape, "strides": model.conv_strides, "heads": model.heads}
    checkpoint = Checkpoint(f"{type(model).__name__} {seed}", tensors, hints)
    return canonical_network(checkpoint, read_program(checkpoint))


def forward_flops(network: Network) -> int:
    """FLOP of a network's own forward pass on one input: two for every weight at every position."""
    total = 0
    for weighted in network.layers:
        layer = weighted.layer
        positions = prod(layer.grid)
        total += sum(2 * w.size * positions for w in weighted.weights if w is not None)
        total += 4 * layer.units * positions**2 * (layer.op == "attention")
    return total


def table(title: str, columns: Sequence[str], rows: dict[str, Sequence[float]]) -> str:
    """A table of numbers as plain text; what was not measured is a dash."""

    def text(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.0f}" if value >= 100 else f"{value:.1f}"

    lines = [" " * 12 + "".join(f"{name:>{len(name) + 3}s}" for name in columns)]
    for name, values in rows.items():
        cells = [f"{text(value):>{len(column) + 3}s}" for column, value in zip(columns, values, strict=True)]
        lines.append(f"{name:12s}" + "".join(cells))
    return "\n".join(["", title, *lines])


def sweep_table(settings: Settings) -> str:
    """The sweeps of an embedding on one thread, for images of two sizes."""
    rows = {}
    for size in tqdm((16, 28), desc="sweeps"):
        model = CNNGap(num_classes=10)
        networks = [fresh_network(model, seed, size) for seed in range(settings.networks // 2)]
        flops, pulled = forward_flops(networks[0]), settings.sweep_probes // 12
        rows[f"{size} pixels"] = sweep_speeds(
            model, networks, flops, size, settings.sweep_probes, pulled, settings.rounds
        )
    return table(
        f"Sweeps of CNNs of 4,970 parameters, networks a CPU second on one thread ({settings.sweep_probes} probes, a "
        "twelfth of\nthem for templates). Plain: each network's own jitted program, one after another. Floors: FLOP of "
        "forward passes,\nand of a backward pass for each class, at the rate of a float32 matrix product.",
        COLUMNS,
        rows,
    )


def encoder_tables(settings: Settings) -> list[str]:
    """Training steps against both baselines, and networks a second against the floor of their arithmetic."""
    config: Config = zoo.get_config()
    config.encoder.update(probes=settings.probes, input_learning_rate=1e-3)
    encoder = make_encoder(config.encoder, (16, 16, 1))
    inputs = np.random.default_rng(0).standard_normal((settings.probes, 16, 16, 1), np.float32)
    params = init_params(encoder, inputs, 0)
    embedder, (product, product_flops) = Embedder(encoder), matrix_product()
    steps, floors = {}, {}
    for family in tqdm(settings.families, desc="encoder"):
        networks = [fresh_network(CATALOGUES["main"][family].variants[0], seed) for seed in range(settings.networks)]
        graphs = [to_graph(network, config.encoder.tile) for network in networks]
        buckets = make_buckets(graphs, config.encoder.batch_cost, config.encoder.slack)
        methods = training_steps(config, encoder, params, networks)
        methods |= {"embedding": lambda buckets=buckets: embedder(params, buckets), "matrix product": product}
        if not steps:
            methods["read-out"] = readout_step(config, encoder, params, embedder.sweep(params, buckets))
        seconds = median_seconds(methods, settings.rounds)
        speed = {name: settings.networks / value for name, value in seconds.items()}
        tiles, whole, embedding, gnn = (speed[key] for key in ("forward sweep", "encoder", "embedding", "GNN"))
        plain = speed.get(PER_WEIGHT, np.nan)
        steps[family] = tiles, plain, tiles / plain, whole, whole / plain, gnn, whole / gnn
        rate = product_flops / seconds["matrix product"]
        floor = rate / (forward_flops(networks[0]) * settings.probes)
        readout = config.encoder.batch_size / seconds.get("read-out", np.nan)
        floors[family] = rate / 1e9, floor, embedding, floor / embedding, floor / 2, whole, floor / 2 / whole, readout
    return [
        table(
            f"Training steps with learned inputs, networks/s ({settings.networks} networks a step, {settings.probes} "
            "probes).\nForward sweep: the encoder without its backward sweeps, which one edge a weight lacks too.",
            ("forward sweep", PER_WEIGHT, "ratio", "encoder", "ratio", "synchronous GNN", "ratio"),
            steps,
        ),
        table(
            "Networks/s against the floor: FLOP of the networks' own forward passes on the probes, at the rate of a\n"
            "float32 matrix product; twice that in training, where sweeps have a gradient. Embedding counts batching\n"
            "and read-out; read-out training is of networks swept already, as where inputs are not learned.",
            ("GFLOP/s", "floor", "embedding", "distance", "floor", "training", "distance", "read-out training"),
            floors,
        ),
    ]


def training_steps(
    config: Config, encoder: ResponseEncoder, params: Any, networks: Sequence[Network]
) -> dict[str, Callable[[], Any]]:
    """Training steps of the encoder and its baselines on the same networks, a share of them on each device."""
    devices = jax.local_device_count()
    size = len(networks) // devices
    graphs = [to_graph(network, config.encoder.tile) for network in networks]
    (bucket,) = make_buckets(graphs, batch_cost=np.iinfo(np.int64).max, max_size=size)
    graphs = [neuron_graph(network) for network in networks]
    edges = size * max(int(graph.n_edge[0]) for graph in graphs)
    (neurons,) = make_neuron_buckets(graphs, np.arange(len(graphs)), edges)
    gnn = SynchronousGNN(config.encoder.dim, config.gnn.width, config.gnn.rounds)
    gnn_params = jax.jit(gnn.init)(jax.random.key(0), neurons.batch([0]))["params"]

    def read(params: Any, sweep: Callable, mask: jax.Array, class_map: jax.Array) -> jax.Array:
        """Sweeps learned inputs, some at a time, and reads out the responses; templates are left blank."""
        chunks = params["inputs"].reshape(-1, encoder.chunk, *params["inputs"].shape[1:])
        logits = jnp.moveaxis(jax.lax.map(sweep, chunks), 0, 2)
        templates = jnp.zeros((*mask.shape, prod(encoder.input_shape[:2])))
        swept = Swept(logits.reshape(*mask.shape, -1), templates, mask)
        return encoder.apply({"params": params}, swept, class_map, method="embed")  # pyright: ignore[reportReturnType]

    def tiles(params: Any, batch: Batch, class_map: jax.Array) -> jax.Array:
        logits, mask = output_logits(batch)
        return read(params, lambda x: logits(forward_sweep(batch, x)), mask, class_map)

    def per_weight(params: Any, batch: PerWeightBatch, class_map: jax.Array) -> jax.Array:
        padding = ((0, 1), (0, 0), (0, 0))  # one network, as in batches of tiles
        mask = jnp.pad(jnp.ones((size, class_map.shape[1])), padding[:2])
        return read(params, lambda x: jnp.pad(per_weight_sweep(batch, x), padding), mask, class_map)

    def step(apply: Callable, params: Any, make_batch: Callable, classes: int) -> Callable[[], Any]:
        batches = [make_batch(range(d * size, (d + 1) * size)) for d in range(devices)]
        return pmapped_step(apply, params, batches, size, classes, config)

    methods = {
        "encoder": step(partial(apply_encoder, encoder), params, bucket.batch, bucket.classes),
        "forward sweep": step(tiles, params, bucket.batch, bucket.classes),
        "GNN": step(lambda p, x, _: gnn.apply({"params": p}, x), gnn_params, neurons.batch, neurons.classes),
    }
    if all(layer.layer.op in ("input", "linear") for layer in networks[0].layers):
        classes = networks[0].layers[-1].layer.units
        methods[PER_WEIGHT] = step(
            per_weight, params, lambda places: per_weight_batch([networks[i] for i in places]), classes
        )
    return methods


def readout_step(config: Config, encoder: ResponseEncoder, params: Any, swept: Swept) -> Callable[[], Any]:
    """A training step of the read-out on swept networks, at the batch size of the main job."""
    devices = jax.local_device_count()
    networks = SweptNetworks(swept, np.arange(len(swept.mask)), config.encoder.batch_size // devices)
    batch = networks.batch([i % len(swept.mask) for i in range(networks.size)])
    apply = partial(apply_encoder, encoder, method="embed")
    return pmapped_step(apply, params, [batch] * devices, networks.size, networks.classes, config)


def apply_encoder(
    encoder: ResponseEncoder, params: Any, batch: Any, class_map: jax.Array, method: str = "__call__"
) -> Any:
    """Embeddings of a batch of graphs or, with the method `embed`, of swept networks."""
    return encoder.apply({"params": params}, batch, class_map, method=method)


def pmapped_step(
    apply: Callable, params: Any, batches: Sequence[Any], size: int, classes: int, config: Config
) -> Callable[[], Any]:
    """The main job's training step on a batch of `size` networks a device; only the encoding, `apply`, differs."""
    devices, count = len(batches), size + 1  # the last is padding
    optimizer = make_optimizer(config.encoder)
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    class_map = np.tile(np.eye(classes, dtype=np.float32), (devices, count, 1, 1))
    label = np.tile(np.append(np.arange(size) % 4, PADDING), (devices, 1))
    lineage = np.arange(devices * count).reshape(devices, count)
    targets = Targets(label, lineage, np.zeros_like(lineage))
    step, state = make_train_step(apply, optimizer, config.encoder), init_state(params, optimizer)
    return lambda: step(state, [(batch, class_map)], targets)


def zoo_table(settings: Settings) -> str:
    """Models a second of the zoo's trainer, of one jitted training run a model, and of one jitted step a batch."""
    config: Config = zoo.get_config().zoo
    config.update(families=",".join(settings.zoo_families), steps=settings.zoo_steps, checkpoints=1)
    config.update(runs_train=settings.zoo_models // 2)  # enough of every architecture
    images = load_image_set("digits", "", config.image_size, config.max_images)
    tasks = draw_tasks([images], num_tasks=14, num_test=2, num_validation=2, num_classes=config.num_classes)
    bank = image_bank([images], tasks, config.test_images)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("models",))
    device_bank = jax.device_put(bank.images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    drawn, rows = draw_runs(config, tasks), {}
    for family in tqdm(settings.zoo_families, desc="zoo"):
        runs = [run for run in drawn if (run.family, run.variant, run.parent) == (family, 0, None)]
        chunk = Chunk(tuple(runs[: settings.zoo_models]), settings.zoo_models)
        seconds = median_seconds(
            {
                "stacked": lambda chunk=chunk: list(train_chunk(chunk, Path(), config, bank, device_bank)),
                "program": one_program_a_model(chunk, bank, config),
                "step": one_step_a_batch(chunk, bank, config),
            },
            min(settings.rounds, 3),
        )
        stacked, program, step = (len(chunk.runs) / value for value in seconds.values())
        rows[family] = stacked, program, stacked / program, step, stacked / step
    return table(
        f"Zoo, models/s ({settings.zoo_models} models of an architecture, {settings.zoo_steps} steps of "
        f"{config.batch_size} images, evaluation included).",
        ("stacked", "one program a model", "ratio", "one step a batch", "ratio"),
        rows,
    )


if __name__ == "__main__":
    main()
