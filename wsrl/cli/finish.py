"""How commands end that are modules of their own; those of `wsrl` end in `wsrl.cli.main`."""

import sys
from collections.abc import Callable

from wsrl.errors import InputError


def finish(job: Callable[[], int | None]) -> int:
    """Does the job and returns its exit status: 1 if the input is bad, 130 if it was interrupted; each is one line."""
    try:
        return job() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
