"""`wsrl map --index DIR --out FILE.html`: draws the models of an index as one self-contained page."""

import argparse
from pathlib import Path

from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.text import bytes_text, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--index", metavar="DIR", type=Path, required=True, help="that `wsrl index` made")
    parser.add_argument(
        "--out", metavar="FILE.html", type=Path, required=True, help="written: one page that needs no other file"
    )
    parser.add_argument(
        "--by",
        choices=("weights", "function"),
        default="weights",
        help="weights: relatives lie together; function: models that do the same do, others are left out",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page; returns the exit status.

    Raises:
      InputError: the index cannot be used, or holds too few models for a map.
    """
    if args.out.suffix.lower() not in (".html", ".htm"):
        raise InputError(args.out, "is not the name of an HTML file", "give a name that ends in .html")
    from wsrl.page.content import page_content  # not needed for `--help`
    from wsrl.page.write import page_html
    from wsrl.search.index import Index

    content = page_content(Index.open(args.index), args.by, progress=True)
    page = page_html(content).encode()
    write_atomically(args.out, page)
    count = len(content["models"])  # pyright: ignore[reportArgumentType]
    print(printable(f"{args.out}: {count:,} models by {args.by}, {bytes_text(len(page))}"))
    return 0
