"""How commands end."""

import sys
from collections.abc import Callable

from wsrl.errors import InputError


def finish(job: Callable[[], None]) -> int:
    """Does the job and returns the exit status: 1 if the input is bad, 130 if it was interrupted; each is one line."""
    try:
        job()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
