"""`wsrl embed SOURCE... --out embeddings.npz`: turns checkpoints into vectors."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wsrl.cli.names import add_encoder, add_sources, given
from wsrl.cli.output import tell, tell_left_out, tell_skipped
from wsrl.errors import InputError
from wsrl.files import writing_atomically

EXAMPLES = ("wsrl embed checkpoints --out embeddings.npz",)


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
    from wsrl.search.export import vector_arrays
    from wsrl.search.sources import find_sources

    encoder = load_encoder(args.encoder)
    sources, problems, skipped = find_sources(given(args.sources))
    tell_skipped(skipped)
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
    tell_left_out(problems)
    incomplete = [row.incomplete for row in rows.values() if row.incomplete]
    for sentence in incomplete:
        tell(sentence)
    if not rows:
        raise InputError(args.out, "is not written, no checkpoint could be used", "give checkpoints that can be read")
    found = [(source.id, rows[source.id]) for source in sources if source.id in rows]
    dim = 0 if args.weights_only else encoder.function_dim
    functions = [row.function for _, row in found if row.function is not None]
    arrays: dict[str, Any] = vector_arrays(
        [name for name, _ in found],
        [row for _, row in found],
        np.stack([row.weights for _, row in found]),
        np.array(functions, np.float32).reshape(len(functions), dim),
        np.flatnonzero([row.function is not None for _, row in found]),
        encoder.hash,
    )
    with writing_atomically(args.out) as file:
        np.savez(file, allow_pickle=False, **arrays)
    return 1 if problems or incomplete else 0
