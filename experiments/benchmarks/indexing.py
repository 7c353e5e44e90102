"""Time and memory of `wsrl index` and `wsrl search` on a folder of small checkpoints of mixed formats.

python -m experiments.benchmarks.indexing [--models 10000] [--random-vectors]

Random weights are written to a temporary folder as safetensors, .npz and Flax msgpack in turn. Each line but the
last is a process of its own, from its start to its end; `CPU s` is the time that it spent on all cores.

    read and hash    the bytes of all files once, SHA-256
    index            `wsrl index FOLDER --out INDEX`
    index again      the same command, with nothing to do
    search, cold     `wsrl search FILE --index INDEX`, of a file that is not in the index
    search, in a process  the median of searches by ids, once the index is open

With --random-vectors the first `index` embeds nothing: vectors are drawn at random, which leaves the index to be
measured where embedding would take hours.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.serialization
import numpy as np
import safetensors.numpy
from tqdm import tqdm

from experiments.benchmarks.streaming import classifier, write_random
from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.search.index import Index
from wsrl.search.query_expansion import unit
from wsrl.signature.digest import content_digest

COLUMN_NAMES = ("s", "CPU s", "files/s", "MB/s", "peak MB")
LAUNCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000]))
"""  # a process that has little memory itself, as a child's peak counts from that of its parent
SEARCHES = 50
SIGNATURE = 13  # numbers of the signature of a tensor
HASH = """
import hashlib, os, sys
for path in os.scandir(sys.argv[1]):
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
"""


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
      seconds, cpu: from its start to its end, and of all cores together.
      peak: MB of memory.
    """

    seconds: float
    cpu: float
    peak: float


def write_models(folder: Path, count: int) -> int:
    """Writes checkpoints and returns their bytes."""
    folder.mkdir()
    for number in tqdm(range(count), desc="writing", mininterval=1.0, disable=None):
        path = folder / f"{number:06d}.safetensors"
        write_random(path, classifier(number % 12), np.float32, number)
        if number % 3:
            tensors = safetensors.numpy.load_file(path)
            path.unlink()
            if number % 3 == 1:
                np.savez(path.with_suffix(".npz"), allow_pickle=False, **tensors)  # pyright: ignore[reportArgumentType]
            else:
                path.with_suffix(".msgpack").write_bytes(flax.serialization.msgpack_serialize(tensors))
    return sum(path.stat().st_size for path in folder.iterdir())


def cost(*words: str) -> Cost:
    """Runs Python with arguments and returns what that took.

    Raises:
      CalledProcessError: it failed.
    """
    done = subprocess.run([sys.executable, "-c", LAUNCH, *words], stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*json.loads(done.stdout))


class RandomEncoder(Encoder):
    """Has the hash of the encoder of the package, and random vectors for every file."""

    def embed(
        self,
        sources: Iterable[str | Path],
        hints: object = None,
        function: bool = True,
        progress: bool = False,
    ) -> Iterator[Embedded | CheckpointError]:
        """Yields a row for each source, which is not opened."""
        for source in sources:
            rng = np.random.default_rng(zlib.crc32(str(source).encode()))
            weights, own = (unit(rng.standard_normal((1, dim)))[0] for dim in (self.weights_dim, self.function_dim))
            digest, kind = content_digest(source), f"relu cnn of {rng.integers(2, 6)} layers"
            signatures = {f"{layer}.weight": np.zeros(SIGNATURE, np.float32) for layer in range(4)}
            yield Embedded(
                str(source),
                digest,
                digest,
                kind,
                10_000,
                weights.astype(np.float32),
                own.astype(np.float32),
                "",
                0.5,
                (),
                signatures,
            )


def latency(index: Path) -> tuple[float, float]:
    """Median seconds and CPU seconds of searches by the ids of an index."""
    opened = Index.open(index)
    opened.search(opened.ids[0])
    seconds, used = [], time.process_time()
    for name in opened.ids[:: max(1, len(opened) // SEARCHES)][:SEARCHES]:
        start = time.perf_counter()
        opened.search(name)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), (time.process_time() - used) / len(seconds)


def rows_of_table(count: int, work: Path, random: bool = False) -> Iterator[list[str]]:
    """Yields the lines of the table as they are measured; with random vectors that of the first `index` is left out."""
    models, index, query = work / "models", work / "zoo.index", work / "query.safetensors"
    size = write_models(models, count)
    write_random(query, classifier(0), np.float32, count)
    yield [f"{count:,} files, {size / 1e6:.0f} MB", *COLUMN_NAMES]
    if random:
        Index.build(RandomEncoder(load_encoder().directory), models, index)
    for name, words in (
        ("read and hash", ("-c", HASH, str(models))),
        ("index", ("-m", "wsrl", "index", str(models), "--out", str(index))),
        ("index again", ("-m", "wsrl", "index", str(models), "--out", str(index))),
        ("search, cold", ("-m", "wsrl", "search", str(query), "--index", str(index))),
        ("search by weights, cold", ("-m", "wsrl", "search", str(query), "--index", str(index), "--by", "weights")),
    ):
        if random and name == "index":
            continue
        taken = cost(*words)
        cells = [f"{taken.seconds:.2f}", f"{taken.cpu:.2f}"]
        many = name != "search, cold" and "weights" not in name
        cells += [f"{count / taken.seconds:.0f}", f"{size / taken.seconds / 1e6:.1f}"] if many else ["", ""]
        yield [name, *cells, f"{taken.peak:.0f}"]
    seconds, used = latency(index)
    yield ["search, in a process", f"{seconds:.4f}", f"{used:.4f}", "", "", ""]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", metavar="N", type=int, default=10_000, help="by default 10,000")
    parser.add_argument("--random-vectors", action="store_true", help="embed nothing")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for name, *cells in rows_of_table(args.models, Path(folder), args.random_vectors):
            print(f"{name:<28}" + "".join(f"{cell:>10}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
