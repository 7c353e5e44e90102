"""`wsrl verify --index DIR`: reads a whole index, and rebuilds what is damaged."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from wsrl.cli.names import add_encoder, add_index
from wsrl.cli.output import FORMATS, Output, add_format, tell, tell_left_out
from wsrl.text import counted

if TYPE_CHECKING:
    from wsrl.search.repair import Damage

EXAMPLES = ("wsrl verify --index zoo.index", "wsrl verify --repair --index zoo.index")
TROUBLE = 2  # exit status of an error, as 1 says that something is damaged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser)
    parser.add_argument(
        "--repair", action="store_true", help="rebuild what is damaged; lost vectors are made again from the files"
    )
    add_encoder(parser)
    add_format(parser, [name for name in FORMATS if name != "ids"])


def run(args: argparse.Namespace) -> int:
    """Prints what is damaged; returns 0 if nothing is or all of it was rebuilt, else 1.

    Raises:
      InputError: the folder is no index, or nothing can be rebuilt.
    """
    from wsrl.search.repair import MENDS, find_damage, repair  # not needed for `--help`

    if args.repair:
        from wsrl.encoder.checkpoint_encoder import load_encoder

        repaired = repair(args.index, load_encoder(args.encoder), progress=True)
        damage, lost = repaired.damage, repaired.lost
        tell_left_out(repaired.changes.problems)
        for name in lost:
            tell(f"lost: {name}; what was noted of it is kept for when it is indexed again")
        embedded = f"{repaired.changes.embedded:,} embedded again, {len(lost):,} lost"
        done = f"{args.index}: repaired; {embedded}" if damage else f"{args.index}: nothing was damaged"
    else:
        damage, lost = find_damage(args.index), []
        done = f"{args.index}: {f'{len(damage):,} damaged; --repair rebuilds it' if damage else 'nothing is damaged'}"
    with Output.of(args) as output:
        output.table([_record(one, MENDS[one.part]) for one in damage], lambda: _show(damage, MENDS))
    tell(done)
    return int(bool(lost if args.repair else damage))


def _record(damage: "Damage", mend: str) -> dict[str, object]:
    return {**asdict(damage), "repair": mend}


def _show(damage: "list[Damage]", mends: dict[str, str]) -> None:
    for one in damage:
        count = "" if one.models is None else f" of {counted(one.models, 'model')}"
        print(f"{one.file}: {one.part}{count}, {one.reason}; repair: {mends[one.part]}")
