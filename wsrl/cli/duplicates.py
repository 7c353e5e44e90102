"""`wsrl duplicates --index DIR`: groups of models that are the same, and plans to free their bytes."""

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

from wsrl.cli.names import add_index
from wsrl.cli.output import WHOLE, Output, add_format, tell, tell_left_out
from wsrl.errors import InputError
from wsrl.text import bytes_text, counted, printable

if TYPE_CHECKING:
    from wsrl.origins.duplicates import Group

KINDS = ("same-file", "same-weights", "same-symmetry", "same-precision")  # as `wsrl.comparison.relation.Kind` has them
INCLUDED = KINDS[:3]  # the quantized copy of a model is no substitute for it

EXAMPLES = (
    "wsrl duplicates --index zoo.index",
    "wsrl duplicates --index zoo.index --emit sh > plan.sh",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser)
    parser.add_argument(
        "--kind", choices=KINDS, action="append", help="show groups of this kind alone; may be given several times"
    )
    parser.add_argument(
        "--reference", metavar="DIR", action="append", default=[], help="nothing in this folder is proposed for removal"
    )
    parser.add_argument(
        "--keep", metavar="DIR", action="append", default=[], help="of several copies keep the one in this folder"
    )
    parser.add_argument(
        "--emit",
        choices=("sh", "json", "fclones"),
        help="print a plan instead: a script that checks all bytes again before each step, the same as JSON, or a"
        " report for `fclones remove`",
    )
    parser.add_argument(
        "--include",
        choices=INCLUDED[1:],
        action="append",
        default=[],
        help="let files of other bytes into the plan too; by default it has identical files alone",
    )
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints groups or a plan; returns 1 if a model was left out.

    Raises:
      InputError: the index cannot be used, or an option does not fit.
    """
    from wsrl.comparison.relation import Kind  # not needed for `--help`
    from wsrl.origins.duplicates import KINDS as ALL
    from wsrl.origins.duplicates import find_duplicates

    if args.include and not args.emit:
        raise InputError("--include", "says what goes into a plan", "add --emit sh")
    if args.emit and args.format != "auto":
        raise InputError("--format", "does not go with --emit", "give --emit json for a plan in JSON")
    included = [_kind(name) for name in ("same-file", *args.include)]
    kinds = [_kind(name) for name in args.kind or ()] or (included if args.emit else ALL)
    found = find_duplicates(args.index, kinds, args.reference, args.keep, progress=True)
    if args.emit:
        from wsrl.origins.plan import emit, steps

        sys.stdout.buffer.write(emit(args.emit, list(steps(found.groups, included))))
    else:
        with Output.of(args) as output:
            for group in found.groups:
                output.document(partial(group_record, group), partial(_show, group))
        freed = sum(group.freed for group in found.groups if group.kind == Kind.SAME_FILE)
        tell(f"{counted(len(found.groups), 'group')}; identical files: {bytes_text(freed)} could be freed")
    tell_left_out(found.problems)
    return 1 if found.problems else 0


def _kind(name: str):
    from wsrl.comparison.relation import Kind

    return Kind(name.replace("-", "_"))


def group_record(group: "Group") -> dict[str, object]:
    """Returns what programs read about a group."""
    copies = [
        {"id": copy.model.id, "path": copy.path, "bytes": copy.bytes, "removable": copy.removable and number > 0}
        for number, copy in enumerate(group.copies)
    ]
    reasons = [list(relation.reasons) for relation in group.relations]
    for copy, relation, why in zip(copies[1:], group.relations, reasons, strict=False):
        copy |= {"precision": relation.precision, "reasons": why}
    return {"kind": str(group.kind), "keep": copies[0]["id"], "why": group.why, "freed": group.freed, "copies": copies}


def _show(group: "Group") -> None:
    from wsrl.comparison.relation import WORDS

    first, *others = group.copies
    lines = [f"{WORDS[group.kind]}: {counted(len(group.copies), 'model')}, {bytes_text(group.freed)} in copies"]
    lines.append(f"  keep  {bytes_text(first.bytes):>9}  {first.model.id}  ({group.why})")
    notes = [f"  ({r.precision:g} bits)" if r.precision else "" for r in group.relations] or [""] * len(others)
    lines += [
        f"        {bytes_text(copy.bytes):>9}  {copy.model.id}{note}" for copy, note in zip(others, notes, strict=True)
    ]
    print("\n".join(map(printable, lines)) + "\n")
