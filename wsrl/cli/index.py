"""`wsrl index SOURCE... --out DIR`: makes an index of checkpoints, or brings one up to date."""

import argparse
import json
import sys
from pathlib import Path

from wsrl.cli.names import add_encoder, add_sources, given
from wsrl.text import bytes_text, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_sources(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder of the index; one that is there is brought up to date: what is new or has changed is embedded",
    )
    add_encoder(parser)
    parser.add_argument(
        "--add", action="store_true", help="keep the models that the sources don't hold; else they are removed"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints what the index holds and what was done; returns the exit status.

    Raises:
      InputError: no checkpoint can be used, or the folder is no index of this encoder.
    """
    from wsrl.encoder.checkpoint_encoder import load_encoder  # not needed for `--help`
    from wsrl.search.index import Index

    encoder, names = load_encoder(args.encoder), given(args.sources)
    if args.add:
        index = Index.open(args.out, encoder)
        index.add(encoder, names, progress=True)
    else:
        index = Index.build(encoder, names, args.out, progress=True)
    info, changes = index.info(), index.changes
    for problem in changes.problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    for sentence in changes.incomplete:
        print(printable(sentence), file=sys.stderr)
    counts = {key: getattr(changes, key) for key in ("embedded", "unchanged", "removed")}
    counts["left_out"] = len(changes.problems)
    if args.json:
        print(json.dumps({**info, **counts}))
    else:
        done = ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in counts.items())
        size = bytes_text(int(str(info["bytes"])))
        models, functions = (f"{info[key]:,}" for key in ("models", "functions"))
        print(printable(f"{args.out}: {models} models, {functions} with a function vector, {size}; {done}"))
    return 1 if changes.incomplete else 0
