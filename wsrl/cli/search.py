"""`wsrl search QUERY... --index DIR`: finds the relatives of a checkpoint, and the models that do what it does."""

import argparse
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from wsrl.cli.hits import hit_row, print_rows
from wsrl.cli.names import add_encoder, add_index, given, tell_unread
from wsrl.cli.output import Output, add_format, listed, tell, tell_left_out
from wsrl.errors import InputError
from wsrl.text import counted

if TYPE_CHECKING:
    from wsrl.search.hit import Hit
    from wsrl.search.question import Explanation

EXAMPLES = (
    "wsrl search model.safetensors --index zoo.index",
    "wsrl search model.safetensors --index zoo.index --by weights -k 5 --json",
    "wsrl search mlp.safetensors model.safetensors --not other.safetensors --index zoo.index",
    "wsrl search model.safetensors --index zoo.index --where 'parameters<1M' --sort parameters:desc",
    "wsrl search adapter.safetensors --relative-to base.safetensors --index loras",
)
WITHOUT_BASE = {  # options that --relative-to does not know -> where their values stand
    **{"--encoder": "encoder", "--by": "by", "--not": "against", "--where": "where", "--explain": "explain"},
    **{"--same-architecture": "same_architecture", "--other-architectures": "other_architectures"},
    **{"--group-by": "group_by", "--sort": "sort", "--exact": "exact"},
}
QUERY = "a checkpoint (a file, a folder or hf://owner/name), or the id of a model in the index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "queries",
        metavar="QUERY",
        nargs="+",
        help=f"{QUERY}; several are asked for at once, by the mean of their scores; - reads them from stdin",
    )
    parser.add_argument(
        "--not",
        dest="against",
        metavar="QUERY",
        action="append",
        default=[],
        help="a counter-example: models that are no less like it than like the queries are left out; may be repeated",
    )
    parser.add_argument("--each", action="store_true", help="rank for each query by itself")
    add_index(parser, stores=True, more="; with --relative-to, any folder of checkpoints")
    parser.add_argument(
        "--relative-to",
        metavar="BASE",
        help="rank children of this checkpoint, adapters and fine-tuned models, by what they change of it",
    )
    parser.add_argument(
        "--learn",
        metavar="KEY",
        help="with --relative-to: learn from children that have this key in their metadata, such as task, which of the"
        " matrices tell its values apart",
    )
    add_encoder(parser)
    parser.add_argument("-k", metavar="N", type=int, default=10, help="models shown (default 10)")
    parser.add_argument(
        "--by",
        choices=("weights", "function"),
        help="weights: who is a copy or a relative; function: who does the same task. By default the function, where"
        " the query has one that is known, copies first",
    )
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="show models that fulfill it, such as 'parameters>6B' or 'license=mit'; may be repeated. A wrong key lists"
        " the known ones",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--same-architecture", action="store_true", help="show models of the query's architecture")
    kinds.add_argument("--other-architectures", action="store_true", help="show models of all other architectures")
    parser.add_argument(
        "--group-by",
        metavar="KEY",
        help="show few models of each value; by `weights`, one of each set of copies, by `lineage`, of each family",
    )
    parser.add_argument("--per-group", metavar="N", type=int, default=1, help="models shown of a group (default 1)")
    parser.add_argument("--sort", metavar="KEY[:desc]", help="order the models shown by a key instead of the score")
    parser.add_argument("--exact", action="store_true", help="compare with all models, however many there are")
    parser.add_argument("--explain", action="store_true", help="tell how the models were found, and in what time")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a ranking; returns the exit status.

    Raises:
      InputError: a query, the index, the encoder or an option cannot be used.
    """
    for option, value in (("-k", args.k), ("--per-group", args.per_group)):
        if value < 1:
            raise InputError(option, f"{value} is too small", "give 1 or more")
    if args.relative_to is not None:
        return _run_relative(args)
    if args.learn is not None:
        raise InputError("--learn", "needs --relative-to", "name the base, or leave it out")
    from wsrl.search.index import Index  # not needed for `--help`

    encoder = None
    if args.encoder is not None:
        from wsrl.encoder.checkpoint_encoder import load_encoder

        encoder = load_encoder(args.encoder)
    index = Index.open(args.index, encoder)
    architecture = "same" if args.same_architecture else "other" if args.other_architectures else "any"
    options = {
        **{"against": args.against, "where": args.where, "architecture": architecture, "sort": args.sort},
        **{"group_by": args.group_by, "per_group": args.per_group},
    }
    queries = given(args.queries)
    tell_unread([*queries, *args.against])
    with Output.of(args) as output:
        for asked in [[query] for query in queries] if args.each else [queries]:
            hits = index.search(asked, args.k, args.by or "auto", exact=args.exact, **options)
            name = " - ".join([" + ".join(asked), *args.against])
            explanation = index.explanation
            assert explanation is not None
            records = [{"query": name, **hit.record()} for hit in hits]
            about = {"query": name, **asdict(explanation)} if args.explain else None
            output.table(records, partial(_show, name, hits, explanation), about)
            if args.explain:
                tell(_explained(explanation))
    return 0


def _run_relative(args: argparse.Namespace) -> int:
    useless = [option for option, name in WITHOUT_BASE.items() if getattr(args, name)]
    useless += ["--per-group"] if args.per_group > 1 else []
    if useless:
        raise InputError(useless[0], "cannot be used with --relative-to", "leave one of them out")
    if not args.relative_to:
        raise InputError("--relative-to", "names nothing", "give the checkpoint that the models were made from")
    from wsrl.relative.search import RelativeSearch

    search = RelativeSearch(args.relative_to, args.index, args.learn, progress=True)
    tell_left_out(search.children.problems)
    if copies := [copy.id for copy in search.children.copies]:
        tell(f"no hits, since they change nothing of {args.relative_to}: {listed(copies)}")
    queries, count = given(args.queries), len(search.children.members)
    tell_unread([args.relative_to, *queries])
    with Output.of(args) as output:
        for asked in [[query] for query in queries] if args.each else [queries]:
            hits = search.search(asked, args.k)
            name = " + ".join(asked)
            heading = f"{name}: nearest of {count:,} children of {args.relative_to}, by what they change"
            rows = [hit_row(hit) for hit in hits]
            output.table([{"query": name, **hit.record()} for hit in hits], partial(print_rows, [heading], rows))
    return 0


def _show(name: str, hits: "list[Hit]", explanation: "Explanation") -> None:
    among = f"{explanation.among:,} of " if explanation.among < explanation.models else ""
    heading = f"{name}: nearest by {explanation.by} of {among}{counted(explanation.models, 'model')}"
    print_rows([heading], [hit_row(hit, explanation.by) for hit in hits])


def _explained(explanation: "Explanation") -> str:
    counts = f"{explanation.compared:,} vectors compared, {explanation.unindexed:,} of them not in it"
    return f"by {explanation.by}, index: {explanation.index}, {counts}; {explanation.seconds:.3f} s"
