"""`wsrl fingerprint FILE...`: digests that say what is equal of two checkpoints."""

import argparse

from wsrl.cli.each import answer_each
from wsrl.cli.names import add_sources
from wsrl.cli.output import WHOLE, add_format
from wsrl.text import printable

EXAMPLES = ("wsrl fingerprint model.safetensors other.safetensors", "wsrl fingerprint checkpoints --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_sources(parser)
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints the digests of each checkpoint; returns 1 if one was left out.

    Raises:
      InputError: there is nothing under a name.
    """
    from wsrl.origins.fingerprint import fingerprint  # not needed for `--help`

    return answer_each(args, lambda path: dict(vars(fingerprint(path))), dict, _show)


def _show(own: dict[str, str]) -> None:
    lines = [f"  {kind:9}  {digest or '-'}" for kind, digest in own.items() if kind != "path"]
    print("\n".join([printable(own["path"]), *lines]))
