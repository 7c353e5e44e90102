"""Checks the installed package without extras, from an empty folder: python check_wheel.py

Runs what a first user runs, on two small safetensors files that it writes, and fails loudly: an import of a package
that only an extra brings, or a file that the wheel lacks, ends here.
"""

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.numpy

COMMANDS = [  # words; what the output must hold
    (["wsrl", "--version"], "wsrl "),
    (["wsrl", "inspect", "a.safetensors"], "hidden"),
    (["wsrl", "inspect", "a.safetensors", "--json"], "{"),
    (["wsrl", "embed", "a.safetensors", "b.safetensors", "--out", "e.npz"], ""),
    (["wsrl", "index", "a.safetensors", "b.safetensors", "--out", "zoo.index"], "2 models, 2 with a function vector"),
    (["wsrl", "search", "a.safetensors", "--index", "zoo.index"], "b.safetensors"),
    (["wsrl", "search", "b.safetensors", "--index", "zoo.index", "--by", "weights"], "a.safetensors"),
    (["wsrl", "compare", "a.safetensors", "a.safetensors", "--expect", "same"], "the same file"),
    (["wsrl", "compare", "a.safetensors", "b.safetensors"], "b.safetensors"),
    (["wsrl", "duplicates", "--index", "zoo.index"], ""),
    (["wsrl", "lineage", "--index", "zoo.index", "--format", "jsonl"], "unknown"),
    (["wsrl", "identify", "a.safetensors"], "weights"),
    (["wsrl", "fingerprint", "a.safetensors"], "canonical"),
]


def write_perceptron(path: Path, seed: int) -> None:
    """A perceptron of 8 x 8 pixels, 32 hidden units and 10 classes, named as PyTorch does."""
    rng = np.random.default_rng(seed)
    widths = (64, 32, 10)
    tensors = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        weight = rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)
        tensors[f"{2 * number}.weight"] = weight.astype(np.float32)
        tensors[f"{2 * number}.bias"] = rng.standard_normal(outputs).astype(np.float32) / 10
    path.write_bytes(safetensors.numpy.save(tensors, {"activation": "relu"}))


def run(words: list[str], folder: Path) -> str:
    """Runs a command there; ends the check if it fails or prints a traceback."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode or "Traceback" in done.stderr:
        sys.exit(f"FAILED ({done.returncode}): {' '.join(words)}\n{done.stdout}{done.stderr}")
    print("ok:", " ".join(words), flush=True)
    return done.stdout


def main() -> None:
    """Checks all commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, file in enumerate(("a.safetensors", "b.safetensors")):
            write_perceptron(folder / file, number)
        where = run([sys.executable, "-c", "import wsrl; print(wsrl.__file__, dir(wsrl))"], folder)
        if "site-packages" not in where:
            sys.exit(f"FAILED: not the installed package but {where}")
        for words, expected in COMMANDS:
            output = run(words, folder)
            if expected not in output:
                sys.exit(f"FAILED: {' '.join(words)} prints no {expected!r}:\n{output}")
            if "--json" in words:
                json.loads(output)


if __name__ == "__main__":
    main()
