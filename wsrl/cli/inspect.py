"""`wsrl inspect FILE`: what network a checkpoint holds, which units are interchangeable, what was not understood."""

import argparse
import json
import sys
from pathlib import Path

from wsrl.checkpoint import Checkpoint
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.readers import open_checkpoint
from wsrl.text import printable
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.stored_names import with_stored_names
from wsrl.wiring.wiring import Wiring
from wsrl.wiring.wiring_file import read_wiring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="a checkpoint: a file, a folder or hf://owner/name")
    parser.add_argument("--json", action="store_true", help="print the whole wiring as JSON, and nothing else")
    parser.add_argument("--all", action="store_true", help="show every operation, group and warning; fold nothing")
    parser.add_argument("--plot", metavar="FILE.svg", type=Path, help="draw the layer graph")
    parser.add_argument(
        "--wiring", metavar="FILE.json", help="use this wiring, of the form of --json, and infer nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Prints a table or JSON; returns the exit status.

    Raises:
      InputError: the checkpoint or the wiring file cannot be used.
    """
    if args.plot and args.plot.suffix != ".svg":  # it would be written over, be it the checkpoint itself
        raise InputError(args.plot, "is not the name of an SVG file", "give a name that ends in .svg")
    checkpoint = open_checkpoint(args.file)
    wiring = _wiring(checkpoint, args.wiring)
    if args.plot:
        from wsrl.drawing.plot import plot  # not needed otherwise: the command starts fast

        write_atomically(args.plot, plot(wiring, Path(args.file).name, unfold=args.all))
    if args.json:
        about = {"file": args.file, "format": checkpoint.metadata.get("format", "unknown")}
        parts = checkpoint.metadata.get("parts")
        print(json.dumps({**about, **with_stored_names(wiring.to_json(), parts if isinstance(parts, dict) else {})}))
    else:
        from wsrl.cli.table import print_table

        print_table(checkpoint, wiring, unfold=args.all)
    unread = checkpoint.metadata.get("unread")
    if isinstance(unread, dict) and unread:
        count = f"{sum(unread.values()):,} numbers in {len(unread):,} tensors"
        print(printable(f"{args.file}: {count} are most likely weights and are not read"), file=sys.stderr)
        return 1
    return 0


def _wiring(checkpoint: Checkpoint, path: str | None) -> Wiring:
    if path is not None:
        return read_wiring(path, checkpoint)
    return infer_wiring(checkpoint)
