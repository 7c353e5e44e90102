"""Errors that a user can fix, told in one line."""

import os


class InputError(ValueError):
    """Bad input: names the file or field, the reason and the fix."""

    def __init__(self, file: str | os.PathLike[str], reason: str, fix: str):
        super().__init__(f"{os.fspath(file)}: {reason}; {fix}")
        self.file = os.fspath(file)
        self.reason = reason
        self.fix = fix
