"""Errors that a user can mend, told in one line."""

import os


class InputError(ValueError):
    """Bad input: names the file or field, the reason and the mend."""

    def __init__(self, file: str | os.PathLike[str], reason: str, mend: str):
        super().__init__(f"{os.fspath(file)}: {reason}; {mend}")
        self.file = os.fspath(file)
        self.reason = reason
        self.mend = mend
