"""Damages small checkpoints of every format and sees to it that the readers refuse them as they should.

    python -m experiments.proofs.fuzz --readers=all --mutations=10000 --seed=0

Each damaged file must either open with all its tensors readable and its wiring inferred, or raise CheckpointError, but
none that was made of an exception that nobody thought of; within 5 s and with no more memory than twice the file and
64 MiB. Anything else is a failure: the file is kept, the table counts it, and the exit status is 1. A reader, a seed
and a number give the same damage again.
"""

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.proofs import (
    samples,
    samples_coreml,
    samples_flax,
    samples_gguf,
    samples_huggingface,
    samples_keras,
    samples_onnx,
    samples_openvino,
    samples_packed,
    samples_tensorflow,
    samples_tflite,
)
from experiments.proofs.mutations import mutate
from wsrl.checkpoint import CheckpointError
from wsrl.readers import READERS, open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring

WRITERS = (
    *(samples, samples_packed, samples_keras, samples_tensorflow, samples_onnx, samples_tflite),
    *(samples_openvino, samples_coreml, samples_flax, samples_gguf, samples_huggingface),
)
SAMPLES = {name: write for module in WRITERS for name, write in module.SAMPLES.items()}
UNTHOUGHT = "its wiring cannot be inferred ("  # how an error begins that nobody thought of
SECONDS = 5
MARGIN = 64 << 20  # bytes beyond twice the file


class Outcome(NamedTuple):
    """What became of one damaged file.

    Attributes:
      opened: whether it could still be read whole.
      failure: what a reader must not do, else None.
      seconds, memory: taken; memory in bytes.
    """

    opened: bool
    failure: str | None
    seconds: float
    memory: int


def attempt(path: Path) -> Outcome:
    """Opens a file, reads all its tensors and infers its wiring."""
    size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    opened, failure = False, None
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
    previous = signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        checkpoint = open_checkpoint(path)
        for name, tensor in checkpoint.tensors.items():
            values = np.asarray(tensor)
            if values.dtype != np.float32 or values.shape != tuple(tensor.shape):
                failure = f"tensor {name!r} is of {values.dtype}, shape {values.shape}, not {tensor.shape}"
        opened = True
        infer_wiring(checkpoint)
    except CheckpointError as error:
        if "\n" in str(error):
            failure = f"a message of several lines: {error}"
        elif error.reason.startswith(UNTHOUGHT):
            failure = "".join(traceback.format_exception(error, limit=-3))
    except BaseException:
        failure = traceback.format_exc(limit=-3)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    memory = max(0, tracemalloc.get_traced_memory()[1] - before)
    if failure is None and memory > 2 * size + MARGIN:
        failure = f"took {memory >> 20} MiB for a file of {size} bytes"
    return Outcome(opened, failure, time.perf_counter() - start, memory)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def fuzz(reader: str, mutations: int, seed: int, keep: Path) -> list[Outcome]:
    """Tries damaged copies of all samples of a reader in turn; keeps those that fail."""
    names = [name for name in SAMPLES if name.partition("-")[0] == reader]
    for module in READERS.values():  # not in the time of an attempt
        importlib.import_module(f"wsrl.readers.{module}")
    outcomes = []
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(action="error"):
        sources = {}
        for name in names:
            (folder := Path(temporary) / name).mkdir()
            sources[name] = SAMPLES[name](folder)
            open_checkpoint(sources[name])
        for number in tqdm(range(mutations), desc=reader, unit="file", mininterval=1.0):
            name = names[number % len(names)]
            folder = Path(temporary) / "damaged"
            path = mutate(Random(f"{name} {seed} {number}"), sources[name], folder)
            outcomes.append(outcome := attempt(path))
            if outcome.failure is not None:
                kept = keep / f"{name}-{seed}-{number}"
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"{kept / path.relative_to(folder)}: {outcome.failure}", file=sys.stderr)
            shutil.rmtree(folder)
    if started:
        tracemalloc.stop()
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table, a reader a line; returns the exit status, 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.proofs.fuzz", description="Damages files for readers.")
    parser.add_argument("--readers", default="all", metavar="NAME,...", help="e.g. safetensors,pytorch; by default all")
    parser.add_argument("--mutations", type=int, default=10_000, metavar="N", help="damaged files for each reader")
    parser.add_argument("--seed", type=int, default=0, help="decides on all damage")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), metavar="DIR", help="for failures")
    args = parser.parse_args(argv)
    known = list(dict.fromkeys(name.partition("-")[0] for name in SAMPLES))
    readers = known if args.readers == "all" else args.readers.split(",")
    if unknown := set(readers) - set(known):
        parser.error(f"--readers: unknown {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    columns = "{:18} {:>9} {:>7} {:>8} {:>8} {:>9} {:>11}"
    lines = [columns.format("reader", "mutations", "opened", "refused", "failures", "slowest s", "most MiB")]
    failures = 0
    for reader in readers:
        outcomes = fuzz(reader, args.mutations, args.seed, args.keep)
        failed = sum(outcome.failure is not None for outcome in outcomes)
        opened = sum(outcome.opened and outcome.failure is None for outcome in outcomes)
        slowest, most = max(o.seconds for o in outcomes), max(o.memory for o in outcomes) / 2**20
        counts = (len(outcomes), opened, len(outcomes) - opened - failed, failed)
        lines.append(columns.format(reader, *counts, f"{slowest:.2f}", f"{most:.1f}"))
        failures += failed
    print("\n".join(lines))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
