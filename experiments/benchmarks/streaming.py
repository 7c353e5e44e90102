"""Weights vectors of models of any size against reading their files once.

python -m experiments.benchmarks.streaming [--models bert-base,decoder-1.5b,zoo-1000]

Random weights are written to a temporary folder (the decoder takes 3 GB there). Every line is measured in a process of
its own, so that its peak memory is its own; reading is timed in that process, after the embedding:

    read      seconds of the embedding over those of reading the file once, which is in the page cache by then
    one pass  seconds of the embedding over those of reading all tensors once as float32 and adding up their squares
"""

import argparse
import json
import math
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.apart import measured_apart
from wsrl.canonical.rows import row_chunks
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.readers import open_checkpoint

Shapes = dict[str, tuple[int, ...]]

MODELS = "bert-base,decoder-1.5b,zoo-1000"
READ_BLOCK = 2**24  # bytes
FILL_BLOCK = 2**24  # entries of random weights drawn at once


def bert(layers: int = 12, width: int = 768, vocabulary: int = 30522) -> Shapes:
    """Tensors of an encoder with BERT's names; the defaults have 110M parameters."""
    shapes: Shapes = {}

    def linear(path: str, outputs: int, inputs: int) -> None:
        shapes[f"{path}.weight"], shapes[f"{path}.bias"] = (outputs, inputs), (outputs,)

    def norm(path: str) -> None:
        shapes[f"{path}.weight"] = shapes[f"{path}.bias"] = (width,)

    for name, rows in (("word", vocabulary), ("position", 512), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, width)
    norm("embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{name}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", 4 * width, width)
        linear(f"{layer}.output.dense", width, 4 * width)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", width, width)
    return shapes


def decoder() -> Shapes:
    """Tensors of a decoder with GPT-2's names and the sizes of its largest version, 1.56 billion parameters."""
    layers, width, vocabulary = 48, 1600, 50257
    shapes: Shapes = {"wte.weight": (vocabulary, width), "wpe.weight": (1024, width)}
    for i in range(layers):
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            shapes[f"h.{i}.{name}.weight"], shapes[f"h.{i}.{name}.bias"] = (inputs, outputs), (outputs,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{name}.weight"] = shapes[f"h.{i}.{name}.bias"] = (width,)
    return shapes | {"ln_f.weight": (width,), "ln_f.bias": (width,)}


def classifier(kind: int) -> Shapes:
    """Tensors of a small network; kinds differ in depth and width, and every other one has convolutions and norms."""
    depth, width = 2 + kind % 3, 16 * (1 + kind // 4)
    shapes: Shapes = {}
    inputs = 1 if kind % 2 else 256
    for i in range(depth):
        name = f"{3 * i}"
        shapes[f"{name}.weight"] = (width, inputs, 3, 3) if kind % 2 else (width, inputs)
        shapes[f"{name}.bias"] = (width,)
        if kind % 2:
            for field in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{3 * i + 1}.{field}"] = (width,)
        inputs = width
    return shapes | {f"{3 * depth}.weight": (10, width), f"{3 * depth}.bias": (10,)}


CONFIGS = {
    "bert-base": {"model_type": "bert", "architectures": ["BertModel"], "num_attention_heads": 12, "hidden_size": 768},
    "decoder-1.5b": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_head": 25, "n_embd": 1600},
}


def write_random(path: Path, shapes: Shapes, dtype: type, seed: int) -> None:
    """Writes a safetensors file of random weights of deviation 1 / sqrt(last axis), a piece at a time."""
    code = {np.float32: "F32", np.float16: "F16"}[dtype]
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for shape in shapes.values():
            left = math.prod(shape)
            while left:
                values = rng.standard_normal(min(left, FILL_BLOCK), np.float32) / math.sqrt(shape[-1])
                file.write((np.abs(values) if len(shape) == 1 else values).astype(dtype).tobytes())
                left -= len(values)


def write_model(name: str, folder: Path) -> list[str]:
    """Writes what a line of the table embeds and returns the paths.

    Raises:
      ValueError: there is no such line.
    """
    if name == "zoo-1000":
        paths = [folder / f"{i}.safetensors" for i in range(1000)]
        for i, path in enumerate(tqdm(paths, desc=f"writing {name}", mininterval=1.0)):
            write_random(path, classifier(i % 12), np.float32, i)
        return [str(path) for path in paths]
    if name not in CONFIGS:
        raise ValueError(f"no model {name!r}; there are {', '.join((*CONFIGS, 'zoo-1000'))}")
    shapes, dtype = (bert(), np.float32) if name == "bert-base" else (decoder(), np.float16)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    write_random(folder / "model.safetensors", shapes, dtype, 0)
    return [str(folder / "model.safetensors")]


@dataclass(frozen=True)
class Figures:
    """What was measured of one line.

    Attributes:
      models, parameters, size: what was embedded; the size in bytes.
      seconds: of the embedding; of the second one where there are many models.
      peak: MiB of memory up to its end.
      reading, one_pass: seconds.
    """

    models: int
    parameters: int
    size: int
    seconds: float
    peak: float
    reading: float
    one_pass: float

    def cells(self) -> list[str]:
        """The columns of the table."""
        return [
            f"{self.parameters / 1e6:.1f}",
            f"{self.seconds:.1f}",
            f"{self.peak:.0f}",
            f"{self.size / self.seconds / 1e9:.2f}",
            f"{self.size / self.reading / 1e9:.2f}",
            f"{self.seconds / self.reading:.1f}",
            f"{self.seconds / self.one_pass:.1f}",
            f"{self.models / self.seconds:.1f}",
        ]


COLUMN_NAMES = ("parameters/M", "s", "peak MB", "GB/s", "GB/s read", "read", "one pass", "models/s")


def measure(paths: Sequence[str]) -> Figures:
    """Embeds checkpoints, then reads their files."""
    runs = []
    for _ in range(2 if len(paths) > 1 else 1):
        start = time.perf_counter()
        failed = [
            row for row in load_encoder().embed(paths, function=False, progress=True) if isinstance(row, Exception)
        ]
        if failed:
            raise failed[0]
        runs.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    size = sum(read_once(path) for path in paths)
    reading = time.perf_counter() - start
    shapes = [t.shape for path in paths for t in open_checkpoint(path).tensors.values()]
    parameters = sum(math.prod(shape) for shape in shapes)
    return Figures(len(paths), parameters, size, runs[-1], peak, reading, one_pass(paths))


def read_once(path: str) -> int:
    """Reads a file from its beginning to its end and returns its bytes."""
    buffer = bytearray(READ_BLOCK)
    with open(path, "rb", buffering=0) as file:
        return sum(iter(lambda: file.readinto(buffer), 0))


def one_pass(paths: Sequence[str]) -> float:
    """Seconds to read all tensors once as float32 and add up their squares, which any vector of them needs."""
    start = time.perf_counter()
    for path in paths:
        for tensor in open_checkpoint(path).tensors.values():
            for _, _, rows in row_chunks(tensor):
                np.vdot(rows, rows)
    return time.perf_counter() - start


def rows_of_table(names: Sequence[str]) -> Iterator[list[str]]:
    """Yields the lines of the table as they are measured."""
    yield ["", *COLUMN_NAMES]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_model(name, Path(folder))
            yield [name, *measured_apart(measure, paths).cells()]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    prog = "python -m experiments.benchmarks.streaming"
    parser = argparse.ArgumentParser(prog=prog, description="Measures how checkpoints of any size are embedded.")
    parser.add_argument("--models", default=MODELS, metavar="NAME,...", help=f"by default {MODELS}")
    for cells in rows_of_table(parser.parse_args(argv).models.split(",")):
        print("".join(f"{cell:>14s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
