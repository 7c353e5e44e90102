"""Puts an encoder of a finished run into the package.

python -m experiments.ship --workdir=runs/pretrain

Of the run's seeds it takes the one with the best mAP on validation tasks.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.finished_run import FinishedRun, load_run
from experiments.job import validation_score
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import PRETRAINED
from wsrl.errors import InputError
from wsrl.files import write_atomically

LARGEST = 5_000_000  # bytes
MADE_BY = "made_by.json"


def best_seed(run: FinishedRun) -> tuple[int, list[float]]:
    """The seed whose encoder does best on validation tasks, and the mAP of all."""
    validate = validation_score(run.records, run.split["validation"])
    scores = []
    for (encoder, params), swept in zip(run.encoders, run.swept, strict=True):
        scores.append(validate(Embedder(encoder).read(params, swept).embedding))
    return int(np.argmax(scores)), scores


def ship(workdir: Path, command: str, directory: Path = PRETRAINED) -> int:
    """Writes encoder and data-set encoder of the best seed, and the command that made them; returns the bytes.

    Raises:
      InputError: the run is not finished, or its encoder is larger than 5 MB.
    """
    run = load_run(workdir)
    seed, scores = best_seed(run)
    told = {"command": command, "seed": seed, "validation_map": scores, "models": len(run.records)}
    contents = {path.name: path.read_bytes() for path in (workdir / f"encoder_{seed}").glob("*encoder.*")}
    contents[MADE_BY] = json.dumps(told, indent=1).encode()
    size = sum(map(len, contents.values()))
    if size > LARGEST:
        raise InputError(workdir, f"its encoder has {size} bytes", "lower encoder.rank, dim or probes")
    for name, content in contents.items():
        write_atomically(directory / name, content)
    return size


def main(argv: Sequence[str] | None = None) -> int:
    """Ships; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    parser.add_argument(
        "--command",
        default="python -m experiments.main --config=configs/pretrain.py:full --config.zoo.data_dir=DATA_DIR",
        help="that made the run; kept beside the encoder",
    )
    args = parser.parse_args(argv)
    try:
        size = ship(args.workdir, args.command)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{PRETRAINED}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
