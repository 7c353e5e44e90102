"""`wsrl doctor SOURCE...` or `wsrl doctor --index DIR`: what is said of models that their weights contradict."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wsrl.cli.names import SOURCES, given
from wsrl.cli.output import Output, add_format, tell, tell_left_out, tell_skipped
from wsrl.errors import InputError
from wsrl.text import counted, printable

if TYPE_CHECKING:
    from wsrl.origins.doctor import Examined

EXAMPLES = ("wsrl doctor checkpoints", "wsrl doctor --index zoo.index --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help=SOURCES)
    parser.add_argument(
        "--index",
        metavar="DIR",
        type=Path,
        help="examine the models of an index in place of sources: their files, and labels against neighbors",
    )
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints every disagreement; returns 1 if there is one or a model was left out.

    Raises:
      InputError: the index cannot be used, or both or neither were given.
    """
    from wsrl.origins.doctor import examine_index  # not needed for `--help`

    if bool(args.sources) == (args.index is not None):
        raise InputError("doctor", "takes either sources or an index", "name checkpoints, or give --index DIR")
    found, problems = (
        examine_index(args.index, progress=True) if args.index is not None else _examine_sources(args.sources)
    )
    rows = [{"id": own.model, **one._asdict()} for own in found for one in own.disagreements]
    with Output.of(args) as output:
        output.table(rows, lambda: _show(found))
    ill = [own for own in found if own.disagreements]
    told = f"{counted(len(rows), 'disagreement')} in {counted(len(ill), 'model')}" if rows else "nothing disagrees"
    tell(told if found or args.index is not None else "no model was examined")
    tell_left_out(problems)
    return 1 if rows or problems else 0


def _examine_sources(names: list[str]) -> "tuple[list[Examined], list[InputError]]":
    from wsrl.checkpoint import CheckpointError, unexpected
    from wsrl.origins.doctor import examine
    from wsrl.search.sources import find_sources

    paths: dict[str, None] = {}
    found, problems = [], list[InputError]()
    for name in given(names):
        try:
            sources, found_problems, skipped = find_sources([name])
        except InputError as error:  # one without checkpoints says nothing of the others
            problems.append(error)
            continue
        tell_skipped(skipped)
        problems += found_problems
        paths |= dict.fromkeys(source.path for source in sources)
    for path in paths:
        try:
            found.append(examine(path))
        except CheckpointError as error:
            problems.append(error)
        except Exception as error:  # of one file, which says nothing of the others
            problems.append(unexpected(path, error))
    return found, problems


def _show(found: "list[Examined]") -> None:
    for own in found:
        for one in own.disagreements:
            print(printable(f"{own.model}: {one.where} says {one.says}, but {one.found}"))
