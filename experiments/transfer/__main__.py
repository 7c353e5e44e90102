"""Does a search help fine-tuning? Trains sources, measures all starts on targets, and writes two tables.

python -m experiments.transfer --config=configs/transfer.py --workdir=runs/transfer --config.data_dir=DATA_DIR

`tables/transfer-validation.csv` holds the targets that options were chosen on, `tables/transfer.csv` those that were
asked once. What the folder holds is neither trained nor measured again.
"""

import sys
from pathlib import Path

from absl import app, logging

from experiments.main import CONFIG, WORKDIR, parse_command_line
from experiments.transfer.run import run
from wsrl.errors import InputError


def main(_: list[str]) -> None:
    """Runs the experiment; bad input ends it with one line and exit status 1."""
    logging.set_verbosity(logging.WARNING)  # JAX tells of accelerators that are not there
    try:
        run(CONFIG.value, Path(WORKDIR.value))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_command_line)
