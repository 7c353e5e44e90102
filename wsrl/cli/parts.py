"""`wsrl parts MODEL --index DIR`: which models share a part with one, a backbone or a text encoder."""

import argparse
from typing import TYPE_CHECKING

from wsrl.cli.hits import print_rows
from wsrl.cli.names import add_index, tell_unread
from wsrl.cli.output import Output, add_format, tell, tell_left_out
from wsrl.text import counted

if TYPE_CHECKING:
    from wsrl.origins.parts import Shared

EXAMPLES = ("wsrl parts model.safetensors --index zoo.index",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, or the id of a model in the index")
    add_index(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the shared parts; returns 1 if a model could not be compared.

    Raises:
      InputError: the index or the model cannot be used.
    """
    from wsrl.origins.parts import find_parts  # not needed for `--help`

    tell_unread([args.model])
    found = find_parts(args.index, args.model, progress=True)
    with Output.of(args) as output:
        output.table(part_records(found), lambda: _show(args.model, found))
    if found.left:
        tell(f"not compared: {counted(found.left, 'more model')} with tensors that may be the same")
    tell_left_out(found.problems)
    return 1 if found.problems else 0


def part_records(found: "Shared") -> list[dict[str, object]]:
    """Returns what programs read about each part."""
    return [{"id": model.id, "share": model.share, **vars(part)} for model in found.models for part in model.parts]


def _show(query: str, found: "Shared") -> None:
    rows = [
        {
            "A": part.a or "(all)",
            "B": part.b or "(all)",
            "is": part.kind.replace("_", " "),
            "tensors": f"{part.tensors:,}",
            "parameters": f"{part.parameters:,}",
            "share": f"{model.share:.0%}",
            "model": model.id,
        }
        for model in found.models
        for part in model.parts
    ]
    print_rows([f"{query}: {counted(len(found.models), 'model')} with a shared part"], rows)
