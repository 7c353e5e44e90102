"""An index that requests of many threads ask, reopened when it has been written."""

import copy
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.page.content import page_content
from wsrl.page.write import page_html
from wsrl.search.hit import Hit
from wsrl.search.index import Index
from wsrl.search.manifest import MANIFEST, Manifest

PATIENCE = 0.1  # seconds that a request waits for a newer state; then it is answered from the one before


class ServedIndex:
    """Answers requests from the newest state of an index, which is opened beside them.

    Args:
      directory: of the index.
      encoder: embeds files that are uploaded; by default that of the package.
      by: the vectors that the page's map rests on.

    Raises:
      InputError: there is no index, or it holds too few models for a map.
    """

    def __init__(self, directory: Path, encoder: Encoder | None, by: str):
        self.directory, self.by = directory, by
        self._encoder = encoder
        self._lock = threading.Lock()  # an encoder takes one call at a time, and two threads must not both reopen
        Manifest.read(directory)  # tells what is wrong with a folder
        self._opener = ThreadPoolExecutor(1)
        self._newer: tuple[tuple[int, int], Future[Index]] | None = None  # a version, and its state when it is open
        self._written = (0, 0)
        self._written = self._version()
        self._index = Index.open(directory, encoder)
        self._page = self._draw(self._index)

    @property
    def index(self) -> Index:
        """The newest state, or the one before while that is opened; its page is drawn when that is asked for."""
        with self._lock:
            if self._newer is None and (version := self._version()) != self._written:
                self._newer = version, self._opener.submit(_reopened, self._index)
            newer = self._newer
        if newer is None:
            return self._index
        try:
            index = newer[1].result(PATIENCE)
        except TimeoutError:
            return self._index
        except Exception:  # whatever it is, the next request tries again
            index = None
        with self._lock:
            if self._newer is newer:
                self._newer = None
                if index is not None:
                    self._index, self._written, self._page = index, newer[0], ""
        newer[1].result()  # what is wrong with it is told to all who waited
        return self._index

    def page(self) -> str:
        """Returns the page of the newest state."""
        _ = self.index  # or an error
        with self._lock:
            self._page = self._page or self._draw(self._index)
            return self._page

    def search(self, query: str, k: int, by: str) -> list[Hit]:
        """Searches by a file or an id; see `wsrl.search.index.Index.search`."""
        index = self.index
        with self._lock:
            return index.search(query, k, by)

    def _version(self) -> tuple[int, int]:
        try:
            stat = (self.directory / MANIFEST).stat()
        except OSError:  # moved for now: what is open still answers
            return self._written
        return stat.st_mtime_ns, stat.st_ino

    def _draw(self, index: Index) -> str:
        return page_html(page_content(index, self.by, neighbors=False), live=True)


def _reopened(index: Index) -> Index:
    """The newest state, with what searches need: a first search has made that."""
    newer = copy.copy(index)
    newer.reopen()
    if len(newer):
        newer.search(newer.ids[0], 1, "weights")
    return newer
