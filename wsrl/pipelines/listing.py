"""What names stand for: files and folders as the index finds them, and models of the hub."""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsrl.errors import InputError
from wsrl.pipelines import hub
from wsrl.pipelines.listed import Letter, Listed
from wsrl.search.file_identity import HUB, belonging, file_stat
from wsrl.search.sources import find_sources
from wsrl.search.update import unreadable
from wsrl.signature.digest import content_digest


def listed(names: Sequence[str]) -> Iterator[Listed | Letter]:
    """Yields the checkpoints that names stand for, and what is wrong with names; nothing is downloaded.

    Args:
      names: files and folders together, or one address of the hub; see `wsrl.search.sources.find_sources` and
        `wsrl.pipelines.hub.models`.
    """
    try:
        if names[0].startswith(HUB):
            yield from hub.models(names[0])
            return
        found = find_sources(names)
    except InputError as error:
        yield Letter.of(error, error.file)
        return
    for problem in found.problems:
        yield Letter.of(problem, problem.file)
    for source in found.sources:
        try:
            yield Listed(source, json.dumps(file_stat(source.path, source.record)))
        except OSError as error:
            yield Letter.of(unreadable(source.path, error), source.id)


def identified(name: Listed) -> Listed:
    """Returns what is listed with the key of its content: for the hub from its metadata, else by reading the file once.

    Raises:
      InputError: it is not there or cannot be read.
    """
    if name.source.path.startswith(HUB):
        return hub.identified(name)
    stat = name.stat
    return name.identified(_content(name.source.path, name.version), stat.size if stat else 0)


@functools.lru_cache(64)
def _content(path: str, version: str) -> str:
    """The digest of all files that belong to a checkpoint; a shard of many is read once, as long as its version is."""
    files = belonging(Path(path))
    if Path(path).is_dir() or files == [Path(path)]:
        return content_digest(path)
    lines = [f"{file.name}\0{content_digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
