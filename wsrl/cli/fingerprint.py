"""`wsrl fingerprint FILE...`: digests that say what is equal of two checkpoints."""

import argparse
from functools import partial

from wsrl.cli.names import add_sources, given
from wsrl.cli.output import WHOLE, Output, add_format, tell_left_out, tell_skipped
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
    from wsrl.checkpoint import CheckpointError  # not needed for `--help`
    from wsrl.origins.fingerprint import fingerprint
    from wsrl.search.sources import find_sources

    sources, problems, skipped = find_sources(given(args.sources))
    tell_skipped(skipped)
    with Output.of(args) as output:
        for source in sources:
            try:
                own = dict(vars(fingerprint(source.path)))
            except CheckpointError as error:
                problems.append(error)
                continue
            output.document(partial(dict, own), partial(_show, own))
    tell_left_out(problems)
    return 1 if problems else 0


def _show(own: dict[str, str]) -> None:
    lines = [f"  {kind:9}  {digest or '-'}" for kind, digest in own.items() if kind != "path"]
    print("\n".join([printable(own["path"]), *lines]))
