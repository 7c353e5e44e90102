"""The `wsrl` command: one subcommand a module of this package.

A command's module offers `add_arguments(parser)` and `run(args) -> int`, the exit status; it is imported only when it
is asked for.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from wsrl import __version__
from wsrl.errors import InputError
from wsrl.text import printable

COMMANDS = {
    "inspect": "what network a checkpoint holds, and which of its units are interchangeable",
    "index": "makes an index of checkpoints, or brings one up to date",
    "search": "finds the models of an index that are related to a checkpoint, or do the same",
    "compare": "whether two checkpoints are related, how, and layer by layer",
    "recommend": "ranks the models of an index for a data set, from labeled examples",
    "duplicates": "groups of models that are the same, and plans to free their bytes",
    "embed": "turns checkpoints into vectors",
    "identify": "what a file holds: architecture, weights or a delta, adapter and its base; or that it is unknown",
    "lineage": "which model each comes from, with the evidence, or that it is unknown",
    "fingerprint": "prints digests of checkpoints: which are the same file, weights or architecture",
}
INTERRUPTED = 128 + 2  # as a shell tells of SIGINT
PIPE_CLOSED = 128 + 13  # as a shell tells of SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; bad input is told in one line on stderr, with status 1.

    With `--debug` before the command the traceback of bad input is printed too.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of tensors may be more than a terminal can show
    args = _parser(next((a for a in argv if not a.startswith("-")), "")).parse_args(argv)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except InputError as error:
        if args.debug:
            traceback.print_exc()
        return _fail(f"error: {error}", getattr(args, "trouble", 1))
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would raise again
        return PIPE_CLOSED
    except OSError as error:  # of the machine: a folder that cannot be written, a full disk
        place = f"{error.filename}: " if error.filename else ""
        return _fail(
            f"error: {place}{error.strerror or error}; name another file or make room", getattr(args, "trouble", 1)
        )
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _parser(chosen: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wsrl", description="Search a model zoo by its weights.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"wsrl {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where in the program an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{name}: {summary}", allow_abbrev=False)
        if name == chosen:
            module = import_module(f"wsrl.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _fail(line: str, status: int = 1) -> int:
    print(printable(line), file=sys.stderr)
    return status
