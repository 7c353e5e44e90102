"""How long two checkpoints are compared: the sieve by signatures, and the proof on the files, beside reading both.

python -m experiments.benchmarks.pairs [--models bert-base,decoder-1.5b] [--pairs float16,tuned,permuted,independent]

Random weights are written to a temporary folder, with a second file that is rounded, tuned a little, permuted or drawn
anew. Every line is measured in a process of its own, so that its peak memory is its own:

    sieve ms  milliseconds in which the signatures of both, which an index holds, are compared
    proof s   seconds of processor time of `wsrl compare`, on as many cores as it uses
    peak MB   memory of it, at most
    passes    these seconds over those of reading all tensors of both files once as float32 and adding up their squares
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from experiments.apart import measured_apart
from experiments.benchmarks.streaming import one_pass, write_model
from wsrl.comparison.compare import compare
from wsrl.origins.sieve import distance
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

MODELS = "bert-base,decoder-1.5b"
PAIRS = "float16,tuned,permuted,independent"
TUNED = 0.01  # change of all weights, relative
PIECE = 2**24  # bytes that are changed at once
SIEVED = 20  # comparisons of signatures that are timed
COLUMNS = ("model", "pair", "kind", "sieve ms", "proof s", "peak MB", "passes")


def write_other(pair: str, first: Path, folder: Path) -> Path:
    """Writes the second file of a pair and returns its path.

    Raises:
      ValueError: there is no such pair.
    """
    path = folder / "model.safetensors"
    folder.mkdir()
    (folder / "config.json").write_bytes((first.parent / "config.json").read_bytes())
    if pair in ("tuned", "independent"):
        _write_changed(first, path, pair == "tuned")
    elif pair in ("permuted", "float16"):
        checkpoint = open_checkpoint(first.parent)
        tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
        if pair == "permuted":
            tensors = permuted(tensors, infer_wiring(checkpoint), 0)
        else:
            tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
        safetensors.numpy.save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path)
    else:
        raise ValueError(f"no pair {pair!r}; there are {PAIRS.replace(',', ', ')}")
    return path


def _write_changed(first: Path, path: Path, tuned: bool) -> None:
    """Copies a file of one type with all its numbers changed a little, or drawn anew, a piece at a time."""
    tensors = open_checkpoint(first).tensors
    dtype = np.float16 if str(next(iter(tensors.values())).dtype) == "float16" else np.float32
    rng = np.random.default_rng(1)
    with open(first, "rb") as source, open(path, "wb") as target:
        head = source.read(8)
        target.write(head + source.read(int.from_bytes(head, "little")))
        while piece := source.read(PIECE):
            values = np.frombuffer(piece, dtype).astype(np.float32)
            noise = rng.standard_normal(len(values), np.float32)
            changed = values * (1 + TUNED * noise) if tuned else noise * np.sqrt(np.square(values).mean())
            target.write(changed.astype(dtype).tobytes())


def measure(paths: Sequence[str]) -> list[str]:
    """Compares two files, as files and by their signatures."""
    start = time.process_time()
    relation = compare(*paths)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    one_pass(paths)
    reading = time.process_time() - start
    rng, count = np.random.default_rng(0), len(open_checkpoint(paths[0]).tensors)
    signatures = rng.standard_normal((2, count, 14)).astype(np.float32)
    signatures[:, :, :3] = np.repeat(rng.standard_normal((count // 8 + 1, 3)), 8, 0)[:count]  # eight of each shape
    start = time.process_time()
    for _ in range(SIEVED):
        distance(*signatures)
    sieve = 1000 * (time.process_time() - start) / SIEVED
    return [str(relation.kind), f"{sieve:.2f}", f"{seconds:.1f}", f"{peak:.0f}", f"{seconds / reading:.1f}"]


def rows_of_table(models: Sequence[str], pairs: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields the lines of the table as they are measured."""
    yield COLUMNS
    for model in models:
        for pair in pairs:
            with tempfile.TemporaryDirectory() as folder:
                first = Path(folder) / "first"
                first.mkdir()
                (path,) = write_model(model, first)
                other = write_other(pair, Path(path), Path(folder) / "second")
                yield [model, pair, *measured_apart(measure, [path, str(other)])]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    prog = "python -m experiments.benchmarks.pairs"
    parser = argparse.ArgumentParser(prog=prog, description="Measures how two checkpoints are compared.")
    parser.add_argument("--models", default=MODELS, metavar="NAME,...", help=f"by default {MODELS}")
    parser.add_argument("--pairs", default=PAIRS, metavar="NAME,...", help=f"by default {PAIRS}")
    args = parser.parse_args(argv)
    for cells in rows_of_table(args.models.split(","), args.pairs.split(",")):
        print("".join(f"{cell:>16s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
