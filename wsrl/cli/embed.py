"""`wsrl embed FILE... --out embeddings.npz`: turns checkpoints into vectors."""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from wsrl.checkpoint import CheckpointError
from wsrl.cli.text import printable
from wsrl.embeddings_file import write_embeddings
from wsrl.errors import InputError
from wsrl.readers import READERS
from wsrl.readers.mapped import read_head
from wsrl.wiring.tree import natural
from wsrl.wiring.wiring_file import read_wiring

HUB = "Hugging Face"
ONE = ("config.json", "adapter_config.json", "*.index.json")  # beside weights: the folder is one model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a checkpoint: a file, a folder or hf://owner/name; another folder stands for the checkpoints in it",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.npz",
        type=Path,
        required=True,
        help="written: `ids`, the names as given; `embeddings` [n, dim], float32, of length 1; `encoder`, its hash;"
        " from a trained one also `kinds` of networks and `accuracy`, which is predicted",
    )
    parser.add_argument(
        "--encoder",
        metavar="DIR",
        type=Path,
        help="embed by a trained encoder, made for image classifiers of the families that can be run exactly:"
        " `pretrained` for the one in the package, or a folder (`runs/zoo/encoder_0`); without it, any network is"
        " embedded by an encoder that is not trained",
    )
    parser.add_argument("--wiring", metavar="FILE.json", help="use this wiring for all, and infer nothing")
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="tell of checkpoints that cannot be used, embed the others, and end with status 1",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the embeddings; returns 1 if a checkpoint was left out.

    Raises:
      InputError: a checkpoint or the wiring file cannot be used, or nothing is left to write.
    """
    if args.out.suffix != ".npz":
        raise InputError(args.out, "does not end in .npz", "name a file that does")
    if args.encoder is not None and args.wiring is not None:
        raise InputError(args.wiring, "is of no use to an encoder of the main job", "leave out --wiring or --encoder")
    found, digest = _embed(expand(args.files), args)
    for error in found.broken:
        print(printable(f"left out: {error}"), file=sys.stderr)
    if not found.ids:
        raise InputError(args.out, "is not written, no checkpoint could be used", "give checkpoints that can be read")
    write_embeddings(args.out, found, digest)
    return 1 if found.broken else 0


def _embed(sources: list[str], args: argparse.Namespace) -> tuple[Any, str]:
    if args.encoder is not None:
        from wsrl.trained_embedding import embed_trained  # needs JAX

        return embed_trained(sources, args.encoder, args.skip_broken, progress=True)
    from wsrl.embedding import embed_files  # not needed for `--help`
    from wsrl.encoder.group_readout import encoder_hash

    options: dict[str, Any] = {"skip_broken": args.skip_broken, "progress": True}
    if args.wiring is not None:
        options["wire"] = lambda checkpoint: read_wiring(args.wiring, checkpoint)
    return embed_files(sources, **options), encoder_hash()


def expand(names: Sequence[str]) -> list[str]:
    """Returns the checkpoints that names stand for; a folder that is none stands for those in it, in natural order.

    A folder is one checkpoint if it is laid out as one: by Orbax, with a `config.json`, with an index of split files,
    or with no more than one file of weights.

    Raises:
      InputError: a folder is no checkpoint and holds none.
    """
    sources = []
    for name in names:
        folder = Path(name)
        if name.startswith("hf://") or not folder.is_dir():
            sources.append(name)
            continue
        found = [path for path in sorted(folder.iterdir(), key=lambda path: natural(path.name)) if _format(path)]
        own = _format(folder)
        if own and (
            own != HUB or len(found) <= 1 or any(fnmatch(path.name, n) for path in folder.iterdir() for n in ONE)
        ):
            sources.append(name)
        elif found:
            sources += [str(path) for path in found]
        else:
            raise InputError(name, "is a folder without checkpoints", "name a checkpoint, or a folder that holds some")
    return sources


def _format(path: Path) -> str:
    """Which reader takes a file or folder for its own, however broken it is; empty if none does."""
    if path.name.startswith("."):
        return ""
    try:
        head = read_head(path)
        matching = (name for name, module in READERS.items() if _reader(module).matches(head, path))
        return next(matching, "")
    except (CheckpointError, OSError):
        return "broken"  # opening it tells why


def _reader(module: str) -> Any:
    return import_module(f"wsrl.readers.{module}")
