"""Related or independent: `wsrl compare` beside cisco-ai-provenance-kit, raw cosines and fingerprints of tensors.

    python -m experiments.tables.provenance_kit --workdir=runs/kit --kit=ENV/bin/python [--lineages=2] [--siblings=6]

Trains small language models and makes descendants of them (`relation_zoo`), writes each as a folder in the layout of
transformers, with one configuration and one tokenizer, and compares the descendants with their own base and with
another, and bases of other seeds with one another. `--kit` is the Python (3.12 or later) of an environment in which
`pip install cisco-ai-provenance-kit` was run; it works offline as a program of its own. Without it the other methods
are compared. Writes `tables/provenance_kit.csv`.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from tqdm import tqdm

from experiments.tables import tiny_language_model as language
from experiments.tables.relation_zoo import STEPS, Member, bases, descendants
from experiments.tables.relations import LEAST, auc, raw_cosine
from wsrl.checkpoint import Checkpoint
from wsrl.cli.finish import finish
from wsrl.comparison.compare import compare
from wsrl.errors import InputError
from wsrl.readers import open_checkpoint
from wsrl.report.tables import Row, print_table, write_table

NAME, TITLE = "provenance_kit", "Related or independent, beside another tool"
NOTE = (
    "Descendants of {lineages} small language models against their own base and against another of the same "
    "architecture, configuration and recipe, and {siblings} bases of other seeds against one another. `found` and "
    "`false alarms` are what each method says by its own threshold: 0.75 of the kit, one equal matrix of fingerprints. "
    "`permuted copies` are the same network, or one that was changed a little, with units in another order."
)
ARCHITECTURE = "llama"
THRESHOLD = 0.75  # `SIMILARITY_THRESHOLD` of provenancekit.config.constants, above which the kit speaks of a match
# Run by the Python of the kit, which knows nothing of wsrl: pairs of folders on stdin, a line of JSON for each
PROGRAM = """
import json, pathlib, sys
from provenancekit.config.settings import Settings
from provenancekit.core.scanner import ModelProvenanceScanner
from provenancekit.services.cache import CacheService
scanner = ModelProvenanceScanner(Settings(), CacheService(cache_dir=pathlib.Path(sys.argv[1])))
for line in sys.stdin:
    scores = scanner.compare(*json.loads(line)).scores
    print(json.dumps([scores.pipeline_score, scores.identity_score]), flush=True)
"""


class Pair(NamedTuple):
    """Two folders of networks, what was done to the second, and whether it comes from the first."""

    a: Path
    b: Path
    change: str
    related: bool


class Said(NamedTuple):
    """What a method says of a pair: a score that is higher for related ones, and whether it calls them related."""

    score: float
    related: bool


def write_model(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a language model in the layout of transformers, with a tokenizer of as many words as it knows."""
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in checkpoint.tensors.items()}
    layers = sum(name.endswith("mlp.up_proj.weight") for name in tensors)
    config = language.CONFIG | {
        **{"vocab_size": language.VOCABULARY, "hidden_size": language.WIDTH, "num_hidden_layers": layers},
        **{"intermediate_size": len(tensors["model.layers.0.mlp.up_proj.weight"]), "hidden_act": "silu"},
        **{"max_position_embeddings": language.LENGTH, "rms_norm_eps": 1e-5},
    }
    words = {f"w{i}": i for i in range(language.VOCABULARY)}
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"added_tokens": []}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def make_pairs(folder: Path, lineages: int, siblings: int, steps: int, tuning: int, seed: int) -> list[Pair]:
    """Trains and writes all networks; returns the pairs that are compared."""

    def write(member: Member) -> Path:
        return write_model(folder / f"{member.lineage} {member.change}".replace(" ", "-"), member.checkpoint)

    roots: list[Member] = []
    for start in range(seed, seed + lineages + siblings, lineages):  # as many at a time, which are compiled once
        roots += bases(ARCHITECTURE, range(start, start + lineages), steps)
    written = [write(root) for root in roots[: lineages + siblings]]
    pairs = [Pair(a, b, "base", False) for a, b in combinations(written, 2)]
    for member in descendants(ARCHITECTURE, roots[:lineages], seed + 1000, [tuning]):
        own = next(i for i, root in enumerate(roots) if root.lineage == member.lineage)
        path = write(member)
        pairs.append(Pair(written[own], path, member.change, True))
        pairs.append(Pair(written[(own + 1) % lineages], path, member.change, False))
    return pairs


def by_weights(pairs: Sequence[Pair]) -> dict[str, list[Said]]:
    """Returns what wsrl, raw cosines and fingerprints of tensors say of each pair."""
    said: dict[str, list[Said]] = {"wsrl compare": [], "raw cosine": [], "tensor fingerprints": []}
    for pair in tqdm(pairs, desc=NAME, unit="pair"):
        a, b = open_checkpoint(pair.a), open_checkpoint(pair.b)
        relation = compare(a, b)
        p_value = 1.0 if relation.p_value is None else relation.p_value
        said["wsrl compare"].append(Said(float(-np.log10(max(p_value, LEAST))), relation.related))
        cosine = raw_cosine(a, b)
        said["raw cosine"].append(Said(cosine, cosine > THRESHOLD))
        first, second = (set(_fingerprints(own)) for own in (a, b))
        said["tensor fingerprints"].append(Said(len(first & second) / len(first), bool(first & second)))
    return said


def _fingerprints(checkpoint: Checkpoint) -> Iterator[str]:
    for tensor in checkpoint.tensors.values():
        if tensor.ndim > 1:
            yield hashlib.sha256(np.asarray(tensor, np.float32).tobytes()).hexdigest()


def by_kit(python: Path, pairs: Sequence[Pair], cache: Path) -> dict[str, list[Said]]:
    """Returns what the kit says of each pair: by its whole score, and by the score of weights alone.

    Raises:
      InputError: it cannot be run.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    environment = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    asked = "".join(json.dumps([str(pair.a.resolve()), str(pair.b.resolve())]) + "\n" for pair in pairs)
    command = [str(python), "-c", PROGRAM, str(cache)]
    try:
        told = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise InputError("--kit", f"{python} cannot be run ({error.strerror})", "name a Python") from error
    lines = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("[")]
    if told.returncode or len(lines) != len(pairs):
        last = (told.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError("--kit", f"{python} failed ({last})", "install cisco-ai-provenance-kit there")
    whole = [Said(score, score > THRESHOLD) for score, _ in lines]
    weights = [Said(score or 0.0, (score or 0.0) > THRESHOLD) for _, score in lines]
    return {"provenance kit": whole, "provenance kit, weights alone": weights}


def rows(pairs: Sequence[Pair], said: Mapping[str, Sequence[Said]]) -> list[Row]:
    """How well methods tell related networks from independent ones."""
    listed: list[Row] = []
    for method, each in said.items():
        related, independent = (
            [s for p, s in zip(pairs, each, strict=True) if p.related is side] for side in (True, False)
        )
        permuted = [s.related for p, s in zip(pairs, each, strict=True) if p.related and "permuted" in p.change]
        row: dict[str, str | int | float] = {"method": method, "related": len(related), "independent": len(independent)}
        row["AUC"] = auc([s.score for s in related], [s.score for s in independent])
        row["found"] = float(np.mean([s.related for s in related]))
        row["false alarms"] = float(np.mean([s.related for s in independent]))
        row["permuted copies"] = len(permuted)
        row["permuted copies found"] = float(np.mean(permuted))
        listed.append(row)
    return listed


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the table.

    Raises:
      InputError: no number that makes sense, or the kit cannot be run.
    """
    for name, least in (("lineages", 2), ("siblings", 0), ("steps", 1), ("tuning", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}", f"{getattr(args, name)} is too small", f"set it to {least} or more")
    models = args.workdir / "models"
    pairs = make_pairs(models, args.lineages, args.siblings, args.steps, args.tuning, args.seed)
    said = by_weights(pairs)
    if args.kit is not None:
        said |= by_kit(args.kit, pairs, args.workdir / "kit-cache")
    listed = rows(pairs, said)
    note = NOTE.format(lineages=args.lineages, siblings=args.lineages + args.siblings)
    write_table(args.workdir, NAME, TITLE, note, listed, None)
    print_table(listed)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder that networks and the table go to")
    parser.add_argument("--kit", type=Path, help="Python of an environment with cisco-ai-provenance-kit")
    parser.add_argument("--lineages", type=int, default=2, help="bases with descendants")
    parser.add_argument("--siblings", type=int, default=6, help="further bases, which are compared with one another")
    parser.add_argument("--steps", type=int, default=STEPS, help="that bases are trained for")
    parser.add_argument("--tuning", type=int, default=100, help="steps that bases are fine-tuned for")
    parser.add_argument("--seed", type=int, default=300, help="of all networks")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())
