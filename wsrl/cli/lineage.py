"""`wsrl lineage [MODEL] --index DIR`: which model each comes from, as far as that can be told."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wsrl.cli.names import add_index, tell_unread
from wsrl.cli.output import Output, add_format, tell, tell_left_out
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.text import counted, printable

if TYPE_CHECKING:
    from wsrl.origins.lineage import Family

UNKNOWN = "unknown"

EXAMPLES = ("wsrl lineage --index zoo.index", "wsrl lineage checkpoints/a.safetensors --index zoo.index")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a file, or the id of a model in the index: its family alone; without it, all families",
    )
    add_index(parser)
    parser.add_argument(
        "--note",
        action="store_true",
        help="note the family of each model in the index, under the key `lineage`, so that searches can group by it",
    )
    parser.add_argument("--plot", metavar="FILE.svg", type=Path, help="draw the trees")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints trees or JSON; returns 1 if a model could not be compared.

    Raises:
      InputError: the index or the model cannot be used.
    """
    from wsrl.origins.lineage import find_lineage, note_families  # not needed for `--help`

    if args.plot and args.plot.suffix != ".svg":
        raise InputError(args.plot, "is not the name of an SVG file", "give a name that ends in .svg")

    tell_unread([args.model] if args.model else [])
    found = find_lineage(args.index, args.model, progress=True)
    if args.note:
        note_families(args.index, found)
    shown = [family for family in found.families if args.model or len(family.models) > 1]
    if args.plot:
        from wsrl.drawing.family_tree import draw_families

        write_atomically(args.plot, draw_families(shown, f"Lineage of {args.model or args.index}"))
    with Output.of(args) as output:
        output.table([line for family in found.families for line in model_records(family)], lambda: _show(shown))
    if not args.model:
        alone = counted(len(found.families) - len(shown), "model")
        tell(f"{counted(len(shown), 'family', 'families')}; {alone} without a relative")
    tell_left_out(found.problems)
    return 1 if found.problems else 0


def _show(families: "list[Family]") -> None:
    from wsrl.origins.lineage import tree_lines

    for number, family in enumerate(families):
        print("\n" * bool(number) + "\n".join(map(printable, tree_lines(family))))
        for link in family.links:
            if link.directed:
                print(printable(f"  {link.child}: from {link.parent}, since {'; '.join(link.evidence)}"))


def model_records(family: "Family") -> list[dict[str, object]]:
    """Returns what programs read about each model of a family."""
    lines: list[dict[str, object]] = []
    for name in family.models:
        link = family.parent(name)
        near = [
            {
                "id": other.parent if other.child == name else other.child,
                "kind": str(other.kind),
                "distance": other.distance,
            }
            for other in family.links
            if name in (other.parent, other.child)
        ]
        lines.append(
            {
                "id": name,
                "parent": link.parent if link else None,
                "direction": "known" if link else UNKNOWN,
                "probability": link.probability if link else None,
                "evidence": list(link.evidence) if link else [],
                "relatives": sorted(near, key=lambda own: (own["distance"], own["id"])),
                "copies": list(family.copies.get(name, ())),
                "declared_absent": list(family.absent.get(name, ())),
                "family": family.root,
            }
        )
    return lines
