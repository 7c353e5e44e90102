"""`wsrl recommend --index DIR --data FILE.npz`: ranks the models of an index for a data set, from labeled examples."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wsrl.cli.hits import Row, print_rows
from wsrl.cli.names import add_encoder, add_index
from wsrl.cli.output import Output, add_format
from wsrl.errors import InputError

if TYPE_CHECKING:
    from wsrl.data import ImageSet
    from wsrl.recommendation.answer import Answer, Recommended
    from wsrl.recommendation.architecture import Suited

EXAMPLES = (
    "wsrl recommend --index zoo.index --data task.npz",
    "wsrl recommend --index zoo.index --data task.npz --query examples --start",
    "wsrl recommend --index zoo.index --data task.npz --architecture",
)
SHOWN_TASKS = 3
HEADINGS = {"logme": "LogME"}
SCORES = ("similarity", "start", "logme")  # of a hit; the last two where they were asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser)
    parser.add_argument(
        "--data",
        metavar="FILE.npz",
        required=True,
        help="labeled examples: images `x` [n, h, w] or [n, h, w, 1 or 3], classes `y` [n]; or a set by its TFDS name",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="of prepared TFDS data sets")
    add_encoder(parser)
    parser.add_argument("-k", metavar="N", type=int, default=10, help="models shown (default 10)")
    parser.add_argument(
        "--logme", action="store_true", help="rank the first 20 anew by LogME of their features of the examples"
    )
    parser.add_argument(
        "--start",
        action="store_true",
        help="rank by how good a start for fine-tuning the weights tell that a model is, in place of how near it is",
    )
    parser.add_argument(
        "--architecture",
        action="store_true",
        help="rank architectures to train on the data, by how the models of the index did on the nearest tasks",
    )
    parser.add_argument(
        "--query",
        choices=("probes", "examples"),
        help="ask by small models trained on the examples for some seconds, which find more and tell an accuracy"
        " (default), or by the examples' own vector, at once (default with --start)",
    )
    parser.add_argument("--max-images", metavar="N", type=int, default=5000, help="drawn from the data (default 5000)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of draws and of the probe models")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the ranking; returns the exit status.

    Raises:
      InputError: the index, the data or the encoder cannot be used.
    """
    for name, least in (("k", 1), ("max_images", 1), ("seed", 0)):
        if getattr(args, name) < least:
            option = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
            raise InputError(option, f"{getattr(args, name)} is too small", f"give {least} or more")
    if args.architecture and (args.start or args.logme):
        raise InputError("--architecture", "ranks no models, so --start and --logme do not go with it", "leave one out")
    if Path(args.data).is_file() and not args.data.endswith(".npz"):
        raise InputError(args.data, "is no .npz file", "save images x and classes y by numpy.savez")
    from wsrl.recommendation.recommend import recommend  # not needed for `--help`

    images, answer = recommend(
        args.index, args.data, args.encoder, args.query, args.start, args.logme, args.data_dir, args.max_images,
        args.seed, progress=True,
    )  # fmt: skip
    if args.architecture:
        if not answer.tasks:
            reason = "no model has a task, so that architectures cannot be compared on equal terms"
            raise InputError(
                args.index, reason, "index a zoo whose manifest tells tasks, or note them by wsrl annotate"
            )
        ranked = answer.architectures[: args.k]
        records = [_suited_record(rank, own) for rank, own in enumerate(ranked, 1)]
        rows = [_suited_row(rank, own) for rank, own in enumerate(ranked, 1)]
    else:
        records = [_record(rank, hit) for rank, hit in enumerate(answer.hits[: args.k], 1)]
        rows = [_row(rank, hit) for rank, hit in enumerate(answer.hits[: args.k], 1)]
    with Output.of(args) as output:
        output.table(records, lambda: print_rows(_reasons(images, answer), rows), _about(images, answer))
    return 0


def _about(images: "ImageSet", answer: "Answer") -> dict[str, object]:
    """About the data and the reasons."""
    return {
        "data": images.name,
        "images": len(images.y),
        "held_out": int(images.held_out.sum()),
        "classes": images.classes,
        "nearest_tasks": [{"task": task, "similarity": round(s, 6)} for task, s in answer.tasks[:SHOWN_TASKS]],
        "expected_accuracy": round(answer.expected_accuracy, 6),
        "probe_accuracy": None if answer.probe_accuracy is None else round(answer.probe_accuracy, 6),
    }


def _record(rank: int, hit: "Recommended") -> dict[str, object]:
    scores = {name: getattr(hit, name) for name in SCORES}
    told = {name: round(value, 6) for name, value in scores.items() if value is not None}
    about = {"architecture": hit.architecture, "accuracy": hit.accuracy, "path": hit.path, "metadata": hit.metadata}
    return {"rank": rank, "id": hit.id, **told, **about}


def _suited_record(rank: int, own: "Suited") -> dict[str, object]:
    told = own._asdict()
    return {
        "rank": rank,
        "id": own.architecture,
        **told,
        "effect": round(own.effect, 6),
        "accuracy": round(own.accuracy, 6),
    }


def _suited_row(rank: int, own: "Suited") -> Row:
    return {
        "rank": str(rank),
        "expected accuracy": f"{own.accuracy:.2f}",
        "effect": f"{own.effect:+.3f}",
        "architecture": own.architecture,
        "width": "" if own.width is None else f"{own.width:,}",
        "depth": "" if own.depth is None else f"{own.depth:,}",
        "models": f"{own.models:,}",
    }


def _reasons(images: "ImageSet", answer: "Answer") -> list[str]:
    lines = [f"{images.name}: {len(images.y):,} images in {images.classes} classes, {images.held_out.sum():,} held out"]
    if answer.tasks:
        tasks = ", ".join(f"{task} {similarity:.2f}" for task, similarity in answer.tasks[:SHOWN_TASKS])
        lines.append(f"nearest tasks: {tasks}")
    lines.append(
        f"expected accuracy: {answer.expected_accuracy:.2f}, the mean accuracy of the {answer.near} nearest models, "
        "weighted by similarity"
    )
    if answer.probe_accuracy is not None:
        lines.append(f"probe models trained on the data reach {answer.probe_accuracy:.2f} on the images held out")
    return lines


def _row(rank: int, hit: "Recommended") -> Row:
    scores = {HEADINGS.get(name, name): getattr(hit, name) for name in SCORES}
    return {
        "rank": str(rank),
        **{name: "" if value is None else f"{value:.3f}" for name, value in scores.items()},
        "task": str(hit.metadata.get("task", "")),
        "architecture": hit.architecture,
        "accuracy": f"{hit.accuracy:.2f}",
        "model": hit.id,
    }
