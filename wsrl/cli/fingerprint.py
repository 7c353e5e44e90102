"""`wsrl fingerprint FILE...`: digests that say what is equal of two checkpoints."""

import argparse
import json

from wsrl.cli.names import add_sources, given
from wsrl.cli.output import tell_skipped
from wsrl.cli.problems import report
from wsrl.text import printable

EXAMPLES = ("wsrl fingerprint a.safetensors b.onnx", "wsrl fingerprint checkpoints --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_sources(parser)
    parser.add_argument("--json", action="store_true", help="print JSON lines, one a checkpoint")


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
    for source in sources:
        try:
            own = vars(fingerprint(source.path))
        except CheckpointError as error:
            problems.append(error)
            continue
        if args.json:
            print(json.dumps(own))
        else:
            lines = [f"  {kind:9}  {digest or '-'}" for kind, digest in own.items() if kind != "path"]
            print("\n".join([printable(source.path), *lines]))
    return report(problems)
