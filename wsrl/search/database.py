"""A file of what an index knows of its models, opened for reading, and the error of one that is damaged."""

import os
import shlex
import sqlite3
import weakref
from pathlib import Path
from urllib.parse import quote

from wsrl.errors import InputError


class DamagedError(InputError):
    """A file of an index is not as it was written."""


def damaged(path: Path, error: object) -> DamagedError:
    """The error of a file of an index that is not as it was written; one that tells so already stays."""
    if isinstance(error, DamagedError):
        return error
    command = f"wsrl verify --repair --index {shlex.quote(str(path.parent))}"
    return DamagedError(path, f"damaged ({error})", f"mend it by `{command}`")


class Database:
    """A committed database, opened for reading. For errors see `wsrl.search.catalog.Catalog`."""

    def __init__(self, path: Path):
        self.path = path
        address = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
        try:
            self.connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            path.stat()
            raise damaged(path, error) from error
        weakref.finalize(self, self.connection.close)

    def read(self, statement: str, values: tuple = ()) -> list[tuple]:
        """Returns the rows that a statement finds."""
        try:
            return self.connection.execute(statement, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise damaged(self.path, error) from error
