"""`wsrl search FILE... --zoo DIR`: finds the models of a zoo that do what a checkpoint does, and its relatives."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsrl.cli.hits import PREDICTED, About, about_record, hit_json, print_hits
from wsrl.cli.usable_gallery import usable_gallery
from wsrl.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a checkpoint: a file, a folder or hf://owner/name")
    parser.add_argument(
        "--zoo",
        metavar="DIR",
        type=Path,
        required=True,
        help="a folder with models.jsonl, whose models are embedded once and kept; or a file that `wsrl embed` wrote,"
        " of any networks",
    )
    parser.add_argument(
        "--encoder",
        metavar="DIR",
        type=Path,
        default=Path("pretrained"),
        help="of a run of the main job (`runs/zoo/encoder_0`), in place of the one in the package; not needed for a"
        " file that was embedded without",
    )
    parser.add_argument("--top", metavar="N", type=int, default=10, help="models shown for each file (default 10)")
    parser.add_argument(
        "--cosine",
        action="store_true",
        help="rank by the cosine of the embeddings alone, copies and relatives first; else the neighbourhoods of the"
        " models count as much, which finds more models of the same task",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, one a model")


class Compared(NamedTuple):
    """Files beside the models of a zoo.

    Attributes:
      names: of the models.
      about: what is told of each.
      similarity, cosine: [files, models], by neighbourhoods and of the embeddings alone.
    """

    names: list[str]
    about: list[About]
    similarity: Any
    cosine: Any


def run(args: argparse.Namespace) -> int:
    """Prints a ranking for each file; returns the exit status.

    Raises:
      InputError: a file, the zoo or the encoder cannot be used.
    """
    if args.top < 1:
        raise InputError("--top", f"{args.top} is too small", "give 1 or more")
    found = (_compare_to_file if args.zoo.suffix == ".npz" else _compare_to_zoo)(args)
    rank_by = found.cosine if args.cosine else found.similarity
    for number, (source, order) in enumerate(zip(args.files, np.argsort(-rank_by, axis=1, kind="stable"), strict=True)):
        hits = [
            (
                found.names[i],
                {"similarity": float(found.similarity[number, i]), "cosine": float(found.cosine[number, i])},
                found.about[i],
            )
            for i in order[: args.top]
        ]
        if args.json:
            print("\n".join(hit_json(rank, *hit, query=source) for rank, hit in enumerate(hits, 1)))
        else:
            print("\n" * bool(number), end="")
            print_hits([f"{source}: nearest of {len(found.names):,} models"], hits)
    return 0


def _compare_to_zoo(args: argparse.Namespace) -> Compared:
    from wsrl.embedding import check_sources
    from wsrl.encoder.embed import Embedder  # needs JAX
    from wsrl.encoder.export import load_encoder
    from wsrl.graph.collection import make_buckets
    from wsrl.graph.kind import network_kind
    from wsrl.trained_embedding import read_graph

    check_sources(args.files)
    encoder, params = load_encoder(args.encoder)
    embedder = Embedder(encoder)
    graphs = [read_graph(source) for source in args.files]
    queries = embedder(params, make_buckets(graphs)).embedding
    gallery = usable_gallery(args.zoo, embedder, params)
    similarity = gallery.neighbourhoods().similarities(queries, [network_kind(graph) for graph in graphs])
    names, about = [record.id for record in gallery.records], [about_record(record) for record in gallery.records]
    return Compared(names, about, similarity, queries @ gallery.vectors.T)


def _compare_to_file(args: argparse.Namespace) -> Compared:
    """Embeds the files as those of the zoo were; what kinds of networks these are only a trained encoder tells."""
    from wsrl.embedding import embed_files
    from wsrl.embeddings_file import read_embeddings
    from wsrl.encoder import group_readout
    from wsrl.search.query_expansion import QueryExpansion

    stored = read_embeddings(args.zoo)
    if stored.encoder == group_readout.encoder_hash():
        found = embed_files(args.files)
    else:
        from wsrl.trained_embedding import embed_trained  # needs JAX

        found, digest = embed_trained(args.files, args.encoder)
        if digest != stored.encoder:
            raise InputError(args.zoo, "was embedded by another encoder", "name that by --encoder, or embed it again")
    around = QueryExpansion.build(stored.vectors, stored.kinds or [""] * len(stored.ids))
    similarity = around.similarities(found.vectors, found.kinds or [""] * len(found.ids))
    about: list[About] = [{}] * len(stored.ids)
    if stored.accuracy is not None:
        about = [{PREDICTED: round(float(value), 6)} for value in around.smoothed(stored.accuracy)]
    return Compared(stored.ids, about, similarity, found.vectors @ stored.vectors.T)
