"""`wsrl inspect FILE`: what network a checkpoint holds, which units are interchangeable, what was not understood."""

import argparse
from pathlib import Path

from wsrl.checkpoint import Checkpoint
from wsrl.cli.output import WHOLE, Output, add_format, tell
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.stored_names import with_stored_names
from wsrl.wiring.wiring import Wiring
from wsrl.wiring.wiring_file import read_wiring

EXAMPLES = ("wsrl inspect model.safetensors", "wsrl inspect model.safetensors --plot layers.svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="a checkpoint: a file, a folder or hf://owner/name")
    add_format(parser, WHOLE)
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
    with Output.of(args) as output:
        output.document(lambda: _record(args.file, checkpoint, wiring), lambda: _show(checkpoint, wiring, args.all))
    if checkpoint.unread:
        count = f"{sum(checkpoint.unread.values()):,} numbers in {len(checkpoint.unread):,} tensors"
        tell(f"{args.file}: {count} are most likely weights and are not read")
        return 1
    return 0


def _record(file: str, checkpoint: Checkpoint, wiring: Wiring) -> dict[str, object]:
    about = {"file": file, "format": checkpoint.format}
    return {**about, **with_stored_names(wiring.to_json(), checkpoint.parts)}


def _show(checkpoint: Checkpoint, wiring: Wiring, unfold: bool) -> None:
    from wsrl.cli.table import print_table  # not needed for JSON

    print_table(checkpoint, wiring, unfold=unfold)


def _wiring(checkpoint: Checkpoint, path: str | None) -> Wiring:
    if path is not None:
        return read_wiring(path, checkpoint)
    return infer_wiring(checkpoint)
