"""`wsrl embed SOURCE... --out embeddings.npz`: turns checkpoints into vectors."""

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wsrl.cli.names import add_encoder, add_sources, given
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_sources(parser)
    parser.add_argument(
        "--out",
        metavar="FILE.npz",
        type=Path,
        required=True,
        help="written: `ids`; `embeddings` [n, d], the weights vectors, float32 of length 1; `function` [n, d], NaN in"
        " rows of networks that cannot be run; `architecture`; `parameters`; predicted `accuracy` or NaN; `assumed`;"
        " `encoder`, its hash",
    )
    add_encoder(parser)
    parser.add_argument("--weights-only", action="store_true", help="run no network: no `function` and no `accuracy`")
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="report checkpoints that cannot be used, embed the others, and end with status 1",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the embeddings; returns 1 if a checkpoint was left out.

    Raises:
      InputError: a checkpoint cannot be used, or nothing is left to write.
    """
    if args.out.suffix != ".npz":
        raise InputError(args.out, "does not end in .npz", "name a file that does")
    from wsrl.embedded import Embedded  # not needed for `--help`
    from wsrl.encoder.checkpoint_encoder import load_encoder
    from wsrl.search.embed import embed_sources
    from wsrl.search.sources import find_sources

    encoder = load_encoder(args.encoder)
    sources, problems = find_sources(given(args.sources))
    rows: dict[str, Embedded] = {}
    line = tqdm(total=len(sources), desc="embedding", unit="model", disable=None, mininterval=1.0)
    with line:
        for source, row in embed_sources(encoder, sources, function=not args.weights_only):
            line.update()
            if isinstance(row, Embedded):
                rows[source.id] = row
            else:
                problems.append(row)
            if problems and not args.skip_broken:
                raise problems[0]
    for problem in problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    incomplete = [row.incomplete for row in rows.values() if row.incomplete]
    for sentence in incomplete:
        print(printable(sentence), file=sys.stderr)
    if not rows:
        raise InputError(args.out, "is not written, no checkpoint could be used", "give checkpoints that can be read")
    found = [(source.id, rows[source.id]) for source in sources if source.id in rows]
    content = io.BytesIO()
    arrays: dict[str, Any] = _arrays(found, encoder.hash, 0 if args.weights_only else encoder.function_dim)
    np.savez(content, **arrays)
    write_atomically(args.out, content.getvalue())
    return 1 if problems or incomplete else 0


def _arrays(found: list, encoder: str, function_dim: int) -> dict[str, np.ndarray]:
    rows = [row for _, row in found]
    arrays = {
        "ids": np.array([name for name, _ in found]),
        "embeddings": np.stack([row.weights for row in rows]),
        "architecture": np.array([row.architecture for row in rows]),
        "parameters": np.array([row.parameters for row in rows], np.int64),
        "assumed": np.array(["; ".join(row.assumed) for row in rows]),
        "encoder": np.array(encoder),
    }
    if function_dim:
        nothing = np.full(function_dim, np.nan, np.float32)
        arrays["function"] = np.stack([nothing if row.function is None else row.function for row in rows])
        arrays["accuracy"] = np.array([np.nan if row.accuracy is None else row.accuracy for row in rows], np.float32)
    return arrays
