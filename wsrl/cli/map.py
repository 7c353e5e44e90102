"""`wsrl map --index DIR --out FILE.html`: draws the models of an index as one self-contained page."""

import argparse
from pathlib import Path

from wsrl.cli.names import add_index
from wsrl.cli.output import WHOLE, Output, add_format
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.text import bytes_text, counted

EXAMPLES = ("wsrl map --index zoo.index --out map.html", "wsrl map --index zoo.index --by function --out map.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser)
    parser.add_argument(
        "--out", metavar="FILE.html", type=Path, required=True, help="written: one page that needs no other file"
    )
    parser.add_argument(
        "--by",
        choices=("weights", "function"),
        default="weights",
        help="weights: relatives lie together; function: models that do the same do, others are left out",
    )
    add_format(parser, WHOLE)


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
    models = content["models"]
    assert isinstance(models, list)
    page = page_html(content).encode()
    write_atomically(args.out, page)
    about = {"file": str(args.out), "models": len(models), "by": args.by, "bytes": len(page)}
    with Output.of(args) as output:
        output.summary(about, f"{args.out}: {counted(about['models'], 'model')} by {args.by}, {bytes_text(len(page))}")
    return 0
