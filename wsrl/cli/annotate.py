"""`wsrl annotate ID KEY=VALUE... --index DIR`: notes what the user knows of a model."""

import argparse

from wsrl.cli.names import add_index
from wsrl.cli.output import WHOLE, Output, add_format
from wsrl.errors import InputError

EXAMPLES = ("wsrl annotate checkpoints/a.safetensors license=mit base=owner/name --index zoo.index",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("id", metavar="ID", help="of a model in the index")
    parser.add_argument(
        "notes",
        metavar="KEY=VALUE",
        nargs="*",
        help="what is noted, above all that came with the file; KEY= takes a note away; none shows what is known",
    )
    add_index(parser)
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints what is known of the model; returns the exit status.

    Raises:
      InputError: there is no such model, a note has no `=`, or the folder is no index.
    """
    notes: dict[str, str | None] = {}
    for note in args.notes:
        key, equals, value = note.partition("=")
        if not key or not equals:
            raise InputError(note, "is no KEY=VALUE", "write a note as license=mit")
        notes[key] = value or None
    from wsrl.search.index import Index  # not needed for `--help`

    index = Index.open(args.index)
    if notes:
        index.annotate(args.id, notes)
    known = index.metadata(args.id)
    lines = [args.id, *(f"  {key}: {value}" for key, value in known.items())]
    with Output.of(args) as output:
        output.summary({"id": args.id, "metadata": known}, "\n".join(lines))
    return 0
