"""The `wsrl` command: one subcommand a module of this package.

A command's module offers `EXAMPLES`, which its help shows, `add_arguments(parser)`, and `run(args) -> int`, the exit
status; TROUBLE, where there is one, is the status of an error in place of 1. It is imported only when it is asked for.
"""

import argparse
import errno
import io
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from importlib import import_module

from wsrl import __version__
from wsrl.errors import InputError
from wsrl.text import printable

COMMANDS = {
    "inspect": "tells what network a checkpoint holds, and which of its units are interchangeable",
    "index": "makes an index of checkpoints, or brings one up to date",
    "add": "adds checkpoints to an index and keeps all that it holds",
    "update": "brings an index up to date with the sources that it was made of",
    "remove": "takes models out of an index",
    "annotate": "notes what you know of a model",
    "info": "tells what an index holds",
    "verify": "finds what of an index is damaged, and rebuilds it",
    "export": "writes the vectors of an index for other programs",
    "search": "finds the models of an index that are related to a checkpoint, or do the same",
    "compare": "tells whether checkpoints are related, how, and layer by layer",
    "parts": "tells which models of an index share a part with one, such as a backbone",
    "duplicates": "groups models that are the same, and plans to free their bytes",
    "lineage": "tells which model each comes from, with the evidence, or that it is unknown",
    "doctor": "finds names, configurations, cards and labels that the weights contradict",
    "identify": "tells what a file holds: architecture, weights or a delta, an adapter and its base",
    "fingerprint": "prints digests of checkpoints: which are the same file, weights or architecture",
    "map": "draws the models of an index as one self-contained page",
    "serve": "serves the map of an index, search by upload and a JSON API on this machine",
    "recommend": "ranks the models of an index for a data set, from labeled examples",
    "embed": "turns checkpoints into vectors",
    "completion": "prints what makes a shell complete commands and options",
}
FULL, CLOSED = "make room, then give the same command again", "allow writing there, or name another place"
MENDS = {  # of errors of the machine
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), CLOSED),
}
INTERRUPTED = 128 + 2  # as a shell tells of SIGINT
PIPE_CLOSED = 128 + 13  # as a shell tells of SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; bad input is told in one line on stderr, with status 1.

    With `--debug` before the command the traceback of bad input is printed too.
    """
    argv = sys.argv[1:] if argv is None else argv
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by `>&-`
            setattr(sys, name, io.StringIO())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of tensors may be more than a terminal can show
    try:  # an interrupt can come while modules are imported
        return _run(command_parser([word for word in argv if not word.startswith("-")][:1]).parse_args(argv))
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _run(args: argparse.Namespace) -> int:
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except InputError as error:
        if args.debug:
            traceback.print_exc()
        return _fail(f"error: {error}", args.trouble)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would raise again
        return PIPE_CLOSED
    except OSError as error:  # of the machine: a folder that cannot be written, a full disk
        place = f"{error.filename}: " if error.filename else ""
        mend = MENDS.get(error.errno or 0, "name another file, or check the disk")
        return _fail(f"error: {place}{error.strerror or error}; {mend}", args.trouble)


def command_parser(chosen: Collection[str]) -> argparse.ArgumentParser:
    """Returns the parser of the command line, with the arguments of the commands that are chosen."""
    parser = argparse.ArgumentParser(prog="wsrl", description="Search a model zoo by its weights.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"wsrl {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where in the program an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{name}: {summary}", allow_abbrev=False)
        if name in chosen:
            module = import_module(f"wsrl.cli.{name}")
            module.add_arguments(command)
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            command.epilog = "examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES)
            command.set_defaults(run=module.run, command=name, trouble=getattr(module, "TROUBLE", 1))
    return parser


def _fail(line: str, status: int = 1) -> int:
    print(printable(line), file=sys.stderr)
    return status
