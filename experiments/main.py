"""The main job: train or read a zoo, train encoders, index, evaluate, report.

python -m experiments.main --config=configs/zoo.py --workdir=runs/zoo
"""

import os
import re
import signal
import sys

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from wsrl.errors import InputError


def _number(variable: str) -> int | None:
    """A number from the environment; None where there is none."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else None


# no default: a default file would be read, and fields set, on import, where errors cannot be told in one line
CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration; its fields are flags too.")
WORKDIR = flags.DEFINE_string("workdir", "runs/zoo", "Folder that receives everything.")
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    os.environ.get("WSRL_COORDINATOR", ""),
    "HOST:PORT of the first of several processes that train encoders together, or auto on TPUs; all see --workdir.",
)
PROCESSES = flags.DEFINE_integer("processes", _number("WSRL_PROCESSES"), "How many there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", _number("WSRL_PROCESS_ID"), "Which of them this is, from 0.")


def parse_command_line(argv: list[str]) -> list[str]:
    """Reads flags and configuration; whatever is wrong with them ends the program with one line and exit status 1."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise InputError("--config", "no configuration is named", "add --config=configs/zoo.py")
        if not isinstance(CONFIG.value, ml_collections.ConfigDict):
            path = config_flags.get_config_filename(flags.FLAGS["config"])
            raise InputError(path or "--config", "no configuration to read there", "check the path")
        if rest[1:]:
            raise InputError(rest[1], "unexpected argument", "give options as --name=value")
    except InputError as error:
        sys.exit(f"error: {error}")
    except Exception as error:  # of absl, of ml_collections, or whatever a configuration file raises
        sys.exit(f"error: {_explain(error, argv)}")
    return rest


def _explain(error: Exception, argv: list[str]) -> InputError:
    """Names the argument that ml_collections, which tells only a part of it, did not take."""
    text = str(error).strip()
    word = re.search(r"\w+", text)
    if word and isinstance(error, KeyError | AttributeError):
        for name in (arg.split("=")[0] for arg in argv):
            if word.group() in name.split("."):
                return InputError(name, f"the configuration has no field {word.group()}", "see its file for the fields")
    reason = text.split("\n")[-1].strip(" .") or type(error).__name__
    return InputError("command line", reason, "see --help, and the configuration's file for its fields")


def main(_: list[str]) -> None:
    """Runs the job; bad input ends it with one line and exit status 1."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it otherwise
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    # one CPU device a core: small networks keep a single device's cores half idle
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    from experiments.job.run import run  # after the devices are set
    from wsrl.training.hosts import join

    try:
        join(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
        run(CONFIG.value, WORKDIR.value)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # of the machine: a folder that cannot be written, a full disk
        place = error.filename or WORKDIR.value
        sys.exit(f"error: {place}: {error.strerror or error}; name another folder or make room")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_command_line)
