"""Puts an encoder of a finished run into the package.

python -m experiments.release --workdir=runs/pretrain

Of the run's seeds it takes the one with the best mAP on validation tasks. Parameters are rounded to float16.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.job.records import validation_score
from experiments.tables.finished_run import FinishedRun, load_run
from wsrl.cli.finish import finish
from wsrl.encoder.dataset_encoder import load_dataset_encoder, save_dataset_encoder
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import encoder_hash, save_encoder
from wsrl.encoder.files import PRETRAINED
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.recommendation.start_score import load_start_score, save_start_score

LARGEST = 5_000_000  # bytes
MADE_BY = "made_by.json"


def rounded(params: Any) -> Any:
    """Parameters in float16."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)


def best_seed(run: FinishedRun) -> tuple[int, list[float]]:
    """The seed whose encoder, rounded, does best on validation tasks, and the mAP of all."""
    validate = validation_score(run.records, run.split["validation"])
    scores = []
    for (encoder, params), swept in zip(run.encoders, run.swept, strict=True):
        own = jax.tree.map(np.float32, rounded(params))
        scores.append(validate(Embedder(encoder).read(own, swept).embedding))
    return int(np.argmax(scores)), scores


def release(workdir: Path, command: str, directory: Path = PRETRAINED) -> int:
    """Writes the best seed's encoder with what belongs to it, and the command that made them; returns the bytes.

    Raises:
      InputError: the run is not finished, or its encoder is larger than 5 MB.
    """
    run = load_run(workdir)
    seed, scores = best_seed(run)
    told = {"command": command, "seed": seed, "validation_map": scores, "models": len(run.records)}
    (encoder, params), source = run.encoders[seed], workdir / f"encoder_{seed}"
    module, dataset_params = load_dataset_encoder(source, encoder, params)
    score = load_start_score(source, encoder_hash(encoder, params))
    with tempfile.TemporaryDirectory() as folder:
        digest = save_encoder(Path(folder), encoder, rounded(params))
        save_dataset_encoder(Path(folder), module, dataset_params, encoder, rounded(params))
        save_start_score(Path(folder), score, digest)
        contents = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    contents[MADE_BY] = json.dumps(told, indent=1).encode()
    size = sum(map(len, contents.values()))
    if size > LARGEST:
        raise InputError(workdir, f"its encoder has {size} bytes", "lower encoder.rank, dim or probes")
    for name, content in contents.items():
        write_atomically(directory / name, content)
    return size


def main(argv: Sequence[str] | None = None) -> int:
    """Releases; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    parser.add_argument(
        "--command",
        default="python -m experiments.main --config=configs/pretrain.py:full --config.zoo.data_dir=DATA_DIR",
        help="that made the run; kept beside the encoder",
    )
    args = parser.parse_args(argv)
    return finish(lambda: print(f"{PRETRAINED}: {release(args.workdir, args.command)} bytes"))


if __name__ == "__main__":
    sys.exit(main())
