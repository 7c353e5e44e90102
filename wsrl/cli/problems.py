"""Checkpoints that a command left out."""

import sys
from collections.abc import Sequence

from wsrl.errors import InputError
from wsrl.text import printable


def report(problems: Sequence[InputError]) -> int:
    """Prints a line for each on stderr, and returns the exit status: 1 if there are any."""
    for problem in problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    return 1 if problems else 0
