"""`wsrl search FILE... --zoo DIR`: finds the models of a zoo that do what a checkpoint does, and its relatives."""

import argparse
import sys
from pathlib import Path

import numpy as np

from wsrl.cli.hits import hit_json, print_hits
from wsrl.cli.text import printable
from wsrl.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a checkpoint: a file, a folder or hf://owner/name")
    parser.add_argument(
        "--zoo",
        metavar="DIR",
        type=Path,
        required=True,
        help="a folder with models.jsonl; embeddings of its models are made once and kept there",
    )
    parser.add_argument(
        "--encoder",
        metavar="DIR",
        type=Path,
        default=Path("pretrained"),
        help="of a run of the main job (`runs/zoo/encoder_0`), in place of the one in the package",
    )
    parser.add_argument("--top", metavar="N", type=int, default=10, help="models shown for each file (default 10)")
    parser.add_argument(
        "--cosine",
        action="store_true",
        help="rank by the cosine of the embeddings alone, copies and relatives first; else the neighbourhoods of the"
        " models count as much, which finds more models of the same task",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, one a model")


def run(args: argparse.Namespace) -> int:
    """Prints a ranking for each file; returns the exit status.

    Raises:
      InputError: a file, the zoo or the encoder cannot be used.
    """
    if args.top < 1:
        raise InputError("--top", f"{args.top} is too small", "give 1 or more")
    from wsrl.embedding import check_sources
    from wsrl.encoder.embed import Embedder  # needs JAX
    from wsrl.encoder.export import load_encoder
    from wsrl.gallery import open_gallery
    from wsrl.graph.collection import make_buckets
    from wsrl.graph.kind import network_kind
    from wsrl.trained_embedding import read_graph

    check_sources(args.files)
    encoder, params = load_encoder(args.encoder)
    embedder = Embedder(encoder)
    graphs = [read_graph(source) for source in args.files]
    queries = embedder(params, make_buckets(graphs)).embedding
    gallery = open_gallery(args.zoo, embedder, params, progress=True)
    for problem in gallery.problems:
        print(printable(problem), file=sys.stderr)
    if not gallery.records:
        raise InputError(args.zoo, "no model can be used", "give a zoo of networks that the encoder takes")
    cosine = queries @ gallery.vectors.T
    similarity = gallery.neighbourhoods().similarities(queries, [network_kind(graph) for graph in graphs])
    ranked = np.argsort(-(cosine if args.cosine else similarity), axis=1, kind="stable")[:, : args.top]
    for number, (source, order) in enumerate(zip(args.files, ranked, strict=True)):
        hits = [
            (gallery.records[i], {"similarity": float(similarity[number, i]), "cosine": float(cosine[number, i])})
            for i in order
        ]
        if args.json:
            print("\n".join(hit_json(rank, *hit, query=source) for rank, hit in enumerate(hits, 1)))
        else:
            print("\n" * bool(number), end="")
            print_hits([f"{source}: nearest of {len(gallery.records):,} models"], hits)
    return 0
