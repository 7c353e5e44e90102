"""A checkpoint under one of its names, as it goes through the pipeline, and what is said of one that cannot be used."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import NamedTuple

from wsrl.errors import InputError
from wsrl.search.catalog import Stat
from wsrl.search.sources import Source


@dataclass(frozen=True)
class Listed:
    """A checkpoint under one of its names.

    Attributes:
      source: its name, its address, its hints and what is known of it.
      version: of a file, its `Stat` as JSON; of a model of the hub, its commit. Empty where it is not known.
      key: SHA-256 of its content and hints, equal for checkpoints that are embedded once; empty until it is known.
      size: bytes of its files; 0 until they are known.
      files: names of those that are downloaded, for a model of the hub.
    """

    source: Source
    version: str
    key: str = ""
    size: int = 0
    files: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Equal for the same unchanged file with the same hints, whatever run listed it."""
        source = self.source
        told = json.dumps([source.path, source.record, self.version, source.hints], sort_keys=True)
        return hashlib.sha256(told.encode(errors="backslashreplace")).hexdigest()

    @property
    def stat(self) -> Stat | None:
        """Of its file; None for a model of the hub."""
        return Stat(*json.loads(self.version)) if self.version.startswith("[") else None

    def identified(self, content: str, size: int, **changes: object) -> "Listed":
        """Returns it with its key.

        Args:
          content: digest of what it holds.
          size: bytes of its files.
          **changes: of other attributes.
        """
        told = json.dumps([content, self.source.record, self.source.hints], sort_keys=True)
        return replace(self, key=hashlib.sha256(told.encode()).hexdigest(), size=size, **changes)  # pyright: ignore


class Letter(NamedTuple):
    """Why a checkpoint was not embedded.

    Attributes:
      key: of its content, which need not be tried again; empty where another try may succeed.
      id: its name.
      reason, fix: see `wsrl.errors.InputError`.
    """

    key: str
    id: str
    reason: str
    fix: str

    @classmethod
    def of(cls, error: InputError, name: str, key: str = "") -> "Letter":
        """Makes one of an error."""
        return cls(key, name, error.reason, error.fix)

    def error(self) -> InputError:
        """Returns the error again."""
        return InputError(self.id, self.reason, self.fix)
