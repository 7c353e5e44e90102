"""Names of checkpoints that a command is given."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wsrl.cli.output import listed, tell
from wsrl.errors import InputError
from wsrl.search.address import is_address

STDIN = "-"
SOURCES = (
    "a checkpoint: a file, a folder or hf://owner/name; another folder stands for the checkpoints in it and below;"
    " - reads names from stdin, one a line"
)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds the argument `sources`."""
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=SOURCES)


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--encoder`."""
    parser.add_argument(
        "--encoder",
        metavar="DIR",
        type=Path,
        help="of a run of the main job (`runs/zoo/encoder_0`), in place of the encoder of the package",
    )


def add_index(parser: argparse.ArgumentParser, stores: bool = False, more: str = "") -> None:
    """Adds the option `--index`.

    Args:
      parser: of the command.
      stores: the command works on a vector store too.
      more: what its help says beside the usual.
    """
    also, kind = (", or a vector store: milvus://..., FILE.db, qdrant://...", index_place) if stores else ("", Path)
    text = f"folder that `wsrl index` made{also}{more}"
    parser.add_argument("--index", metavar="DIR", type=kind, required=True, help=text)


def index_place(name: str) -> str | Path:
    """Returns the address of a vector store as it is, and any other name as a path."""
    return name if is_address(name) else Path(name)


def given(names: Sequence[str]) -> list[str]:
    """Returns the names, and in place of `-` those on stdin.

    Raises:
      InputError: a name is empty, as that of a variable of the shell which is not set.
    """
    found: list[str] = []
    for name in names:
        if not name:
            raise InputError("''", "names nothing", "name a checkpoint")
        found += [line for line in sys.stdin.read().splitlines() if line] if name == STDIN else [name]
    return found


def tell_unread(names: Sequence[str]) -> None:
    """Tells on stderr of folders that a command takes for one checkpoint each, which files of weights it does not read.

    A folder with a `config.json` is one model in several formats; of any other, files may be of other models.
    """
    from wsrl.readers.huggingface import weight_files
    from wsrl.search.sources import checkpoint_format  # neither is needed for `--help`

    for name in names:
        folder = Path(name)
        if folder.is_dir() and not (folder / "config.json").is_file() and checkpoint_format(folder) == "Hugging Face":
            chosen, *others = weight_files(folder)
            if others:
                tell(f"{name} stands for {folder / chosen} alone; not read: {listed(others)}")
