"""Files a CPU second through the command line, start included, and what of it the arithmetic needs.

python -m experiments.benchmarks.small_files [--files 64,300,512] [--other 'COMMAND']

Fresh CNNs of 4,970 parameters for images of 28 pixels are written to a temporary folder, with their activation, strides
and input shape in their metadata. `python -m wsrl embed` embeds so many of them, in a process whose CPU seconds (user
and system, all threads) count. `--other` is another program to which the files and `--out FILE.npz` are given, say

    env --chdir=OLDER_CHECKOUT PYTHONPATH=. python -m wsrl embed --encoder pretrained

and the two take turns. Columns: files; files a CPU second; milliseconds of a file after the start, which is that of one
file; milliseconds that the floating-point operations of its sweeps take at the rate of a float32 matrix product, and
how many times as long a file takes; forward passes a CPU second of the baseline with one edge a weight, the synchronous
GNN, on such networks, which it has read already, and how many times as many files are embedded; the other program's
files a CPU second, and the ratio.
"""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from threadpoolctl import threadpool_limits

from configs import zoo
from experiments.benchmarks.speed import forward_flops, fresh_network
from experiments.benchmarks.sweep import cpu_seconds as cpu_seconds_of
from wsrl.annotations import Config
from wsrl.baselines.gnn import SynchronousGNN, make_neuron_buckets
from wsrl.encoder.files import PRETRAINED, read_encoder
from wsrl.graph.neurons import neuron_graph
from wsrl.zoo.models import CNNGap
from wsrl.zoo.stacked import initialize

SIDE = 28  # pixels
MODEL = CNNGap(num_classes=10)
ROUNDS = 3
GNN_NETWORKS = 13  # of a batch of the main job
PRODUCT = 1024  # rows of the square matrices whose product tells the rate


def write_files(folder: Path, count: int) -> list[str]:
    """Writes freshly initialized networks and returns their paths."""
    told = {"activation": MODEL.activation, "input_shape": [SIDE, SIDE, 1], "strides": list(MODEL.conv_strides)}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}
    paths = [folder / f"{seed:04d}.safetensors" for seed in range(count)]
    for seed, path in enumerate(paths):
        flat = flax.traverse_util.flatten_dict(initialize(MODEL, SIDE, seed, 1.0), sep="/")
        tensors = {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}
        safetensors.numpy.save_file(tensors, path, metadata)
    return [str(path) for path in paths]


def cpu_seconds(command: Sequence[str], paths: Sequence[str]) -> float:
    """CPU seconds of a program that embeds files."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, *paths, "--out", f"{folder}/e.npz"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def floor_seconds() -> float:
    """CPU seconds of the operations of a network's sweeps: a forward pass for each probe, and a backward pass, of as
    many operations, for each probe that is swept backward and each class but one.
    """
    shape, _ = read_encoder(PRETRAINED)
    passes = shape.probes + shape.pulled * (MODEL.num_classes - 1)
    square = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT), np.float32)
    times = []
    with threadpool_limits(1, "blas"):
        for _ in range(10 * ROUNDS):
            start = time.process_time()
            np.matmul(square, square)
            times.append(time.process_time() - start)
    rate = 2 * PRODUCT**3 / float(np.median(times))
    return forward_flops(fresh_network(MODEL, 0, SIDE)) * passes / rate


def gnn_seconds() -> float:
    """CPU seconds of the GNN's forward pass on a network, in a batch and with the sizes of the main job."""
    config: Config = zoo.get_config()
    graphs = [neuron_graph(fresh_network(MODEL, seed, SIDE)) for seed in range(GNN_NETWORKS)]
    (bucket,) = make_neuron_buckets(graphs, np.arange(GNN_NETWORKS), config.gnn.edges)
    gnn = SynchronousGNN(config.encoder.dim, config.gnn.width, config.gnn.rounds)
    batch = bucket.batch(range(bucket.size))
    params, apply = jax.jit(gnn.init)(jax.random.key(0), batch), jax.jit(gnn.apply)
    return cpu_seconds_of({"forward": lambda: apply(params, batch)}, 10 * ROUNDS)["forward"] / bucket.size


def measure(command: Sequence[str], other: Sequence[str] | None, counts: Sequence[int]) -> list[list[str]]:
    """Rows of the table, its header included."""
    columns = ("files", "files/s", "ms a file", "floor ms", "distance", "GNN/s", "ratio")
    rows = [[*columns, *(("other files/s", "ratio") if other else ())]]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), max(counts))
        start, floor, gnn = median_of_rounds([command], paths[:1])[0], floor_seconds(), gnn_seconds()
        for count in counts:
            own, *others = median_of_rounds([command, other] if other else [command], paths[:count])
            each = (own - start) / count
            cells = [f"{count}", f"{count / own:.1f}", f"{1e3 * each:.1f}", f"{1e3 * floor:.1f}", f"{each / floor:.1f}"]
            cells += [f"{1 / gnn:.0f}", f"{count / own * gnn:.2f}"]
            rows.append(cells + [text for o in others for text in (f"{count / o:.1f}", f"{o / own:.2f}")])
    return rows


def median_of_rounds(commands: Sequence[Sequence[str]], paths: Sequence[str]) -> list[float]:
    """Median CPU seconds of each program; they take turns."""
    times = [[cpu_seconds(command, paths) for command in commands] for _ in range(ROUNDS)]
    return np.median(times, 0).tolist()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    prog = "python -m experiments.benchmarks.small_files"
    parser = argparse.ArgumentParser(prog=prog, description="Measures how many files are embedded a CPU second.")
    parser.add_argument("--files", default="64,300,512", metavar="N,...", help="numbers of files")
    parser.add_argument("--other", metavar="COMMAND", help="another program to compare with")
    args = parser.parse_args(argv)
    other = shlex.split(args.other) if args.other else None
    counts = [int(n) for n in args.files.split(",")]
    for cells in measure([sys.executable, "-m", "wsrl", "embed"], other, counts):
        print("".join(f"{cell:>15s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
