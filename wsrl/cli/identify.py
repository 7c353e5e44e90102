"""`wsrl identify FILE...`: what files hold, or that it is unknown."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wsrl.cli.each import answer_each
from wsrl.cli.names import add_sources
from wsrl.cli.output import WHOLE, add_format
from wsrl.text import printable

if TYPE_CHECKING:
    from wsrl.origins.identify import Identity

SHOWN = 5  # candidates

EXAMPLES = ("wsrl identify model.safetensors", "wsrl identify model.safetensors --index zoo.index --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_sources(parser)
    parser.add_argument("--index", metavar="DIR", type=Path, help="that may hold the base models of adapters")
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints what each checkpoint holds; returns 1 if one was left out.

    Raises:
      InputError: there is nothing under a name, or the index cannot be used.
    """
    from wsrl.origins.identify import identify  # not needed for `--help`

    return answer_each(args, lambda path: identify(path, args.index), identity_record, _show)


def identity_record(found: "Identity") -> dict[str, object]:
    """Returns what programs read about a file."""
    return {
        **{key: value for key, value in vars(found).items() if key not in ("stored", "declared", "candidates")},
        "reasons": list(found.reasons),
        "dtype": found.stored[0],
        "bits": found.stored[1],
        "declared": [own._asdict() for own in found.declared],
        "candidates": [own._asdict() for own in found.candidates],
    }


def _show(found: "Identity") -> None:
    dtype, bits = found.stored
    size = f", {found.size}" if found.size else ""
    kind = f"{found.adapter} " if found.adapter else ""
    lines = [
        f"{found.path}: {kind}{found.content} of {found.architecture}{size}; {found.parameters:,} parameters, {dtype}"
        + (f" in {bits:g} bits" if f"{bits:g}" not in dtype else "")
    ]
    lines += ["  holds a moving average of weights"] if found.averaged else []
    lines += [f"  {reason}" for reason in found.reasons]
    lines += [f"  declares {own.name} in {own.where}" for own in found.declared]
    lines += [f"  fits {own.id}" for own in found.candidates[:SHOWN]]
    more = len(found.candidates) - SHOWN
    lines += [f"  fits {more:,} more"] if more > 0 else []
    print("\n".join(map(printable, lines)))
