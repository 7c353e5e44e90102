"""An index that requests of many threads ask, reopened beside them when it has been written."""

import copy
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.page.content import page_content
from wsrl.page.write import page_html
from wsrl.search.hit import Hit
from wsrl.search.index import Index
from wsrl.search.manifest import MANIFEST, Manifest

LOOK_EVERY = 0.5  # seconds
LOG = logging.getLogger("uvicorn.error")

Version = tuple[int, int]  # of the manifest: when it was written, and its inode


class _State(NamedTuple):
    version: Version | None
    index: Index


class ServedIndex:
    """Answers requests from the newest state of an index that is open.

    Args:
      directory: of the index.
      encoder: embeds files that are uploaded; by default that of the package.
      by: the vectors that the page's map rests on.

    Raises:
      InputError: there is no index.
    """

    def __init__(self, directory: Path, encoder: Encoder | None, by: str):
        self.directory, self.by = directory, by
        self._embedding = threading.Lock()  # an encoder takes one call at a time,
        self._searching = threading.Lock()  # and so do libraries that propose candidates
        self._drawing = threading.Lock()
        manifest, version = Manifest.read(directory), self._version()  # tells what is wrong with a folder
        if encoder is None and (package := load_encoder()).hash == manifest.encoder:
            encoder = package
        self._state = _State(version, _ready(Index.open(directory, encoder)))
        self._page: tuple[Version | None, str] = None, ""
        self._told = ""

    @property
    def index(self) -> Index:
        """The newest state that is open."""
        return self._state.index

    def follow(self, stop: threading.Event) -> None:
        """Goes over to each new state of the index until it is told to stop; requests are answered meanwhile."""
        while not stop.wait(LOOK_EVERY):
            try:
                self.refresh()
                self._told = ""
            except Exception as error:  # what is open goes on answering, and this is tried again
                if str(error) != self._told:
                    self._told = str(error)
                    LOG.warning("the state before is served: %s", self._told)

    def refresh(self) -> None:
        """Goes over to the state that was committed last, with what searches need, once that is open.

        Raises:
          InputError: it cannot be opened; the state before goes on answering.
        """
        version = self._version()
        if version is not None and version != self._state.version:
            newer = copy.copy(self.index)
            newer.reopen()
            self._state = _State(version, _ready(newer))

    def page(self) -> str:
        """Returns the page of the newest state, which is drawn when it is asked for first.

        Raises:
          InputError: the index holds too few models for a map, or scikit-learn is not installed.
        """
        with self._drawing:
            version, index = self._state
            if self._page[0] != version:
                self._page = version, page_html(page_content(index, self.by, neighbors=False), live=True)
            return self._page[1]

    def search(self, id: str, k: int, by: str, where: Sequence[str] = ()) -> list[Hit]:
        """Searches by an id; see `wsrl.search.index.Index.search`. A name of a file is no id: none is read."""
        index = self.index
        asked = index.get(id)
        with self._searching:
            return index.search(asked, k, by, where=where)

    def search_file(self, path: Path, k: int, by: str, where: Sequence[str] = ()) -> list[Hit]:
        """Searches by a checkpoint."""
        index = self.index
        with self._embedding:
            asked = index.row(str(path), by != "weights")
        with self._searching:
            return index.search(asked, k, by, where=where)

    def _version(self) -> Version | None:
        """Of what was committed last; None while the folder is away."""
        try:
            stat = (self.directory / MANIFEST).stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino


def _ready(index: Index) -> Index:
    """The index, with what searches need: first searches make that."""
    for by in ("weights", "auto") if len(index) else ():
        index.search(index.ids[0], 1, by)
    return index
