"""The main job: train or read a zoo, train encoders, index, evaluate, report.

python -m experiments.main --config=configs/zoo.py --workdir=runs/zoo
"""

import os
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from wsrl.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", "configs/zoo.py", "Configuration; its fields are flags too.")
WORKDIR = flags.DEFINE_string("workdir", "runs/zoo", "Folder that receives everything.")


def main(argv: list[str]) -> None:
    """Runs the job; bad input ends it with one line and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    # one CPU device a core: small networks keep a single device's cores half idle
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    from experiments.job import run  # after the devices are set

    try:
        run(CONFIG.value, WORKDIR.value)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


if __name__ == "__main__":
    try:
        app.run(main)
    except (AttributeError, KeyError) as error:
        sys.exit(f"error: {error}")
