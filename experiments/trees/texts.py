"""Sets of short texts from the files of installed packages: which folder or file of a folder does a text stand in?

    python -m experiments.trees.texts --out=DATA_DIR --root=SITE_PACKAGES [--root=...]

Each of `FOLDERS` that lies below one of the roots becomes DATA_DIR/NAME.npz with tokens `x` [n, 24] and classes `y`.
A class is an entry of the folder, with all files below it: a module of a package, or the language of translated
messages. A token is a sign, or a word of at most five letters or a piece of a longer one, which are hashed, so that no
vocabulary has to be kept.
"""

import argparse
import io
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import punctuation
from zlib import crc32

import numpy as np
from jaxtyping import Bool, Int64, UInt16
from tqdm import tqdm

from experiments.trees.kinds import TEXTS
from experiments.trees.text_encoder import SIGNS, TOKENS, VOCABULARY
from wsrl.cli.finish import finish
from wsrl.data import HELD_OUT
from wsrl.errors import InputError
from wsrl.files import write_atomically

FOLDERS = tuple(name.replace(".", "/") for name in TEXTS.names)
SOURCES = (".py", ".pyi", ".h", ".hpp", ".js", ".txt", ".rst", ".html")
PIECE = re.compile(r"[^\W_]{1,5}|[^\w\s]")
MOST_CLASSES, MOST_TEXTS, FEWEST = 24, 4000, 40  # of a set; texts of a class
LARGEST = 400_000  # bytes read of a file, and pieces of a class
MESSAGES = 0x950412DE  # how a file of translated messages begins (GNU gettext's manual, "The Format of GNU MO Files")


@dataclass(frozen=True)
class TextSet:
    """Texts of one length with their classes.

    Attributes:
      name: of the set.
      x: tokens.
      y: classes, 0 to `classes` - 1.
      classes: how many.
      held_out: texts to measure accuracy on.
    """

    name: str
    x: UInt16[np.ndarray, "n tokens"]
    y: Int64[np.ndarray, " n"]
    classes: int
    held_out: Bool[np.ndarray, " n"]


def load_text_set(name: str, data_dir: Path, most: int, seed: int = 0) -> TextSet:
    """Loads at most `most` texts of a set, drawn by `seed`, with a held-out part.

    Raises:
      InputError: there is no such set.
    """
    file = data_dir / f"{name}.npz"
    if not file.is_file():
        raise InputError(data_dir, f"holds no {name}.npz", "make it by experiments.trees.texts")
    rng = np.random.default_rng([seed, 67])
    with np.load(file, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"].astype(np.int64)
    rows = np.sort(rng.permutation(len(y))[:most])
    return TextSet(name, x[rows], y[rows], int(y.max()) + 1, rng.random(len(rows)) < HELD_OUT)


def text_set(folder: Path, seed: int) -> tuple[UInt16[np.ndarray, "n tokens"], Int64[np.ndarray, " n"]]:
    """Returns texts and classes of a folder; of many entries those that hold most text.

    Raises:
      InputError: fewer than two of its entries hold enough text.
    """
    rng = np.random.default_rng([seed, 68])
    entries = sorted(own for own in folder.iterdir() if not own.name.startswith((".", "__", "tests")))
    found = [np.unique(_texts(entry), axis=0) for entry in entries]
    order = sorted(range(len(found)), key=lambda i: -len(found[i]))[:MOST_CLASSES]
    found = [found[i] for i in sorted(order) if len(found[i]) >= FEWEST]
    if len(found) < 2:
        raise InputError(folder, "holds too little text", "name another folder")
    each = MOST_TEXTS // len(found)
    rows = [own[rng.permutation(len(own))[:each]] for own in found]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(own) for own in rows])


def _texts(entry: Path) -> UInt16[np.ndarray, "n tokens"]:
    tokens: list[int] = []
    for file in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
        if len(tokens) < LARGEST and file.is_file():
            for text in _content(file):
                tokens += map(_token, PIECE.findall(text.lower()))
    tokens = tokens[: len(tokens) // TOKENS * TOKENS]
    return np.array(tokens, np.uint16).reshape(-1, TOKENS)


@cache
def _token(piece: str) -> int:
    return punctuation.find(piece) if piece in punctuation else SIGNS + crc32(piece.encode()) % (VOCABULARY - SIGNS)


def _content(file: Path) -> Iterable[str]:
    if file.suffix == ".mo":
        return _messages(file.read_bytes())
    if file.suffix in SOURCES:
        with file.open(encoding="utf8", errors="ignore") as opened:
            return [opened.read(LARGEST)]
    return []


def _messages(content: bytes) -> Iterator[str]:
    """The translations of a file of messages; the first one is its head."""
    if len(content) < 20 or struct.unpack_from("<I", content)[0] != MESSAGES:
        return
    count, _, table = struct.unpack_from("<3I", content, 8)
    for length, start in list(struct.iter_unpack("<2I", content[table : table + 8 * count]))[1:]:
        yield content[start : start + length].replace(b"\0", b" ").decode("utf8", "ignore")


def make_sets(args: argparse.Namespace) -> None:
    """Writes a file for each folder.

    Raises:
      InputError: a folder lies below none of the roots.
    """
    for name in tqdm(FOLDERS, desc="texts", unit="set"):
        folder = next((root / name for root in args.root if (root / name).is_dir()), None)
        if folder is None:
            raise InputError(name, "lies below none of the roots", "install its package, or name one more --root")
        x, y = text_set(folder, args.seed)
        content = io.BytesIO()
        np.savez_compressed(content, x=x, y=y)
        write_atomically(args.out / f"{name.replace('/', '.')}.npz", content.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the sets; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--root", type=Path, action="append", required=True, help="folder that packages lie in")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    args = parser.parse_args(argv)
    return finish(lambda: make_sets(args))


if __name__ == "__main__":
    sys.exit(main())
