"""`wsrl lineage [MODEL] --index DIR`: which model each comes from, as far as that can be told."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from wsrl.cli.problems import report
from wsrl.text import printable

if TYPE_CHECKING:
    from wsrl.origins.lineage import Family

UNKNOWN = "unknown"

EXAMPLES = ("wsrl lineage --index zoo.index", "wsrl lineage model.safetensors --index zoo.index")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a file, or the id of a model in the index: its family alone; without it, all families",
    )
    parser.add_argument("--index", metavar="DIR", type=Path, required=True, help="that `wsrl index` made")
    parser.add_argument(
        "--note",
        action="store_true",
        help="note the family of each model in the index, under the key `lineage`, so that searches can group by it",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, one a model")


def run(args: argparse.Namespace) -> int:
    """Prints trees or JSON; returns 1 if a model could not be compared.

    Raises:
      InputError: the index or the model cannot be used.
    """
    from wsrl.origins.lineage import find_lineage, note_families, tree_lines  # not needed for `--help`

    found = find_lineage(args.index, args.model, progress=True)
    if args.note:
        note_families(args.index, found)
    if args.json:
        for family in found.families:
            print("".join(json.dumps(line) + "\n" for line in model_lines(family)), end="")
        return report(found.problems)
    shown = [family for family in found.families if args.model or len(family.models) > 1]
    for number, family in enumerate(shown):
        print("\n" * bool(number) + "\n".join(map(printable, tree_lines(family))))
        for link in family.links:
            if link.directed:
                print(printable(f"  {link.child}: from {link.parent}, since {'; '.join(link.evidence)}"))
    if not args.model:
        alone = len(found.families) - len(shown)
        print("\n" * bool(shown) + f"{len(shown):,} families; {alone:,} models without a relative")
    return report(found.problems)


def model_lines(family: "Family") -> list[dict[str, object]]:
    """Returns what is known of each model of a family, as plain JSON values."""
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
