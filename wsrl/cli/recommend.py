"""`wsrl recommend --zoo DIR --data FILE.npz`: ranks the models of a zoo for a data set, from labelled examples."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wsrl.cli.hits import About, about_record, hit_json, print_hits
from wsrl.cli.usable_gallery import usable_gallery
from wsrl.errors import InputError

if TYPE_CHECKING:
    from wsrl.data import ImageSet
    from wsrl.recommend.answer import Answer, Hit

SHOWN_TASKS = 3
SCORES = ("similarity", "start", "logme")  # of a hit; the last two where they were asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--zoo",
        metavar="DIR",
        type=Path,
        required=True,
        help="a folder with models.jsonl; embeddings of its models are made once and kept there",
    )
    parser.add_argument(
        "--data",
        metavar="FILE.npz",
        required=True,
        help="labelled examples: images `x` [n, h, w] or [n, h, w, 1 or 3], classes `y` [n]; or a set by its TFDS name",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="of prepared TFDS data sets")
    parser.add_argument(
        "--encoder",
        metavar="DIR",
        type=Path,
        default=Path("pretrained"),
        help="of a run of the main job (`runs/zoo/encoder_0`), in place of the one in the package",
    )
    parser.add_argument("--top", metavar="N", type=int, default=10, help="models shown (default 10)")
    parser.add_argument(
        "--logme", action="store_true", help="rank the first 20 anew by LogME of their features of the examples"
    )
    parser.add_argument(
        "--start",
        action="store_true",
        help="rank by how good a start for fine-tuning the weights tell that a model is, in place of how near it is",
    )
    parser.add_argument(
        "--query",
        choices=("probes", "examples"),
        help="ask by small models trained on the examples for some seconds, which find more and tell an accuracy"
        " (default), or by the examples' own vector, at once (default with --start)",
    )
    parser.add_argument("--max-images", metavar="N", type=int, default=5000, help="drawn from the data (default 5000)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of draws and of the probe models")
    parser.add_argument("--json", action="store_true", help="print JSON lines: one about the data, then one a model")


def run(args: argparse.Namespace) -> int:
    """Prints the ranking; returns the exit status.

    Raises:
      InputError: the zoo, the data or the encoder cannot be used.
    """
    for name, least in (("top", 1), ("max_images", 1), ("seed", 0)):
        if getattr(args, name) < least:
            option = f"--{name.replace('_', '-')}"
            raise InputError(option, f"{getattr(args, name)} is too small", f"give {least} or more")
    from wsrl.encoder.embed import Embedder  # needs JAX
    from wsrl.encoder.export import encoder_hash, load_encoder
    from wsrl.recommend.answer import NEAR, rank_by_logme, rank_by_start, recommend
    from wsrl.recommend.data_query import data_query
    from wsrl.recommend.examples import load_examples
    from wsrl.recommend.probes import probe_query, train_probes
    from wsrl.recommend.start_score import load_start_score

    encoder, params = load_encoder(args.encoder)
    images = load_examples(args.data, args.data_dir, encoder.input_shape[0], args.max_images, args.seed)
    embedder = Embedder(encoder)
    score = load_start_score(args.encoder, encoder_hash(encoder, params)) if args.start else None
    gallery = usable_gallery(args.zoo, embedder, params)
    if args.query == "probes" or (args.query is None and not args.start):
        query = probe_query(train_probes(images, args.seed), embedder, params)
    else:
        query = data_query(images, args.encoder, encoder, params)
    answer = recommend(gallery, query)
    hits = rank_by_start(gallery, query, score) if score else answer.hits
    if args.logme:
        hits = rank_by_logme(hits[:NEAR], args.zoo, images, "features") + hits[NEAR:]
    if args.json:
        print("\n".join(json_lines(images, answer, hits[: args.top])))
    else:
        print_answer(images, answer, hits[: args.top])
    return 0


def _told(hit: "Hit") -> tuple[str, dict[str, float | None], About]:
    return hit.record.id, {name: getattr(hit, name) for name in SCORES}, about_record(hit.record)


def json_lines(images: "ImageSet", answer: "Answer", hits: "list[Hit]") -> Iterator[str]:
    """Yields a line about the data and the reasons, then one a model."""
    yield json.dumps(
        {
            "data": images.name,
            "images": len(images.y),
            "held_out": int(images.held_out.sum()),
            "classes": images.classes,
            "nearest_tasks": [{"task": task, "similarity": round(s, 6)} for task, s in answer.tasks[:SHOWN_TASKS]],
            "expected_accuracy": round(answer.expected_accuracy, 6),
            "probe_accuracy": None if answer.probe_accuracy is None else round(answer.probe_accuracy, 6),
        }
    )
    for rank, hit in enumerate(hits, 1):
        yield hit_json(rank, *_told(hit))


def print_answer(images: "ImageSet", answer: "Answer", hits: "list[Hit]") -> None:
    """Prints the reasons and a table."""
    tasks = ", ".join(f"{task} {similarity:.2f}" for task, similarity in answer.tasks[:SHOWN_TASKS])
    lines = [
        f"{images.name}: {len(images.y):,} images in {images.classes} classes, {images.held_out.sum():,} held out",
        f"nearest tasks: {tasks}",
        f"expected accuracy: {answer.expected_accuracy:.2f}, the mean accuracy in the manifest of the {answer.near} "
        "nearest models, weighted by similarity",
    ]
    if answer.probe_accuracy is not None:
        lines.append(f"probe models trained on the data reach {answer.probe_accuracy:.2f} on the images held out")
    print_hits(lines, [_told(hit) for hit in hits])
