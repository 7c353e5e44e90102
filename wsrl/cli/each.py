"""One answer for each checkpoint that a command is given."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from wsrl.cli.names import given
from wsrl.cli.output import Output, Record, tell_left_out, tell_skipped

T = TypeVar("T")


def answer_each(
    args: argparse.Namespace, ask: Callable[[str], T], record: Callable[[T], Record], show: Callable[[T], None]
) -> int:
    """Prints what is found of each checkpoint; returns the exit status, 1 if one was left out.

    Args:
      args: hold `sources`, and what `wsrl.cli.output.Output` needs.
      ask: path -> what is found.
      record: returns what programs read of it.
      show: prints it for people.

    Raises:
      InputError: there is nothing under a name.
    """
    from wsrl.checkpoint import CheckpointError  # not needed for `--help`
    from wsrl.search.sources import find_sources

    sources, problems, skipped = find_sources(given(args.sources))
    tell_skipped(skipped)
    with Output.of(args) as output:
        for source in sources:
            try:
                found = ask(source.path)
            except CheckpointError as error:
                problems.append(error)
                continue
            output.document(partial(record, found), partial(show, found))
    tell_left_out(problems)
    return 1 if problems else 0
