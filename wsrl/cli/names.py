"""Names of checkpoints that a command is given."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    """Returns the names, and in place of `-` those on stdin."""
    found: list[str] = []
    for name in names:
        found += [line for line in sys.stdin.read().splitlines() if line] if name == STDIN else [name]
    return found
