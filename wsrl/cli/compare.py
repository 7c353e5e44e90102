"""`wsrl compare A B`: whether two checkpoints are related and how, by layers; `compare A B C...`: what A merges."""

import argparse
from typing import TYPE_CHECKING

from wsrl.cli.hits import Row, print_rows
from wsrl.cli.names import tell_unread
from wsrl.cli.output import WHOLE, Output, add_format

if TYPE_CHECKING:
    from wsrl.comparison.relation import LayerRelation, Relation

EXPECTED, NOT_EXPECTED, TROUBLE = 0, 1, 2  # as `diff` tells

EXAMPLES = (
    "wsrl compare model.safetensors other.safetensors",
    "wsrl compare model.safetensors mlp.safetensors --all --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    source = "a checkpoint: a file, a folder or hf://owner/name"
    parser.add_argument("a", metavar="A", help=source)
    parser.add_argument("b", metavar="B", nargs="+", help=f"{source}; several: networks of which A is a merge")
    parser.add_argument("--all", action="store_true", help="show tensors that are equal, too")
    parser.add_argument(
        "--expect",
        choices=("same", "related"),
        help="exit with 0 if the networks are that, with 1 if they are not, with 2 in case of trouble",
    )
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints the relation; returns the exit status.

    Raises:
      InputError: a checkpoint cannot be used.
    """
    tell_unread([args.a, *args.b])
    if len(args.b) > 1:
        from wsrl.comparison.merge import find_merge

        relation = find_merge(args.a, args.b)
    else:
        from wsrl.comparison.compare import compare  # not needed for `--help`

        relation = compare(args.a, args.b[0])
    with Output.of(args) as output:
        output.document(lambda: {"a": args.a, "b": args.b, **relation.to_json()}, lambda: _show(relation, args))
    expected = {"same": relation.same, "related": relation.related, None: True}[args.expect]
    return EXPECTED if expected else NOT_EXPECTED


def _show(relation: "Relation", args: argparse.Namespace) -> None:
    from wsrl.comparison.relation import WORDS, Kind

    chance = "" if relation.p_value is None else f", p = {relation.p_value:.1g}"
    alone = len(args.b) > 1 and relation.kind is not Kind.MERGE
    others = " and ".join((alone and relation.coefficients) or args.b)
    no_merge = relation.kind is Kind.UNKNOWN and len(args.b) > 1
    words = "no merge of these is recognized" if no_merge else WORDS[relation.kind]
    lines = [f"{args.a} and {others}: {words}{chance}"]
    lines += [f"- {coefficient:.3f} of {name}" for name, coefficient in relation.coefficients.items()]
    if relation.derived is not None and len(args.b) == 1:
        lines.append(f"- {args.a if relation.derived == 'a' else others} was made from the other")
    lines += [f"- {line}" for line in (*relation.reasons, *relation.limits)]
    shown = [layer for layer in relation.layers if args.all or layer.what != "equal"]
    print_rows(lines, [_row(layer) for layer in shown])


def _row(layer: "LayerRelation") -> Row:
    what = f"{layer.what} to {layer.bits:g} bits" if layer.bits else layer.what
    return {
        "A": layer.a or "-",
        "B": "-" if layer.b is None else layer.b if layer.b != layer.a else "",
        "is": what,
        "change": "" if layer.change is None else f"{layer.change:.2g}",
        "rank": "" if layer.rank is None else str(layer.rank),
        "coefficients": " ".join(f"{coefficient:.3f}" for coefficient in layer.coefficients),
        "p": "" if layer.p_value is None else f"{layer.p_value:.1g}",
        "order": "other" if layer.reordered else "",
    }
