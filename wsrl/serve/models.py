"""An index that requests of many threads ask, reopened when it has been written."""

import threading
from pathlib import Path

from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.page.content import page_content
from wsrl.page.write import page_html
from wsrl.search.hit import Hit
from wsrl.search.index import Index
from wsrl.search.manifest import MANIFEST, Manifest


class ServedIndex:
    """Answers requests from the newest state of an index.

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
        self._written = self._version()
        self._index = Index.open(directory, encoder)
        self._page = self._draw(self._index)

    @property
    def index(self) -> Index:
        """The newest state; its page is drawn when that is asked for."""
        with self._lock:
            if self._version() != self._written:
                self._written, self._page = self._version(), ""
                self._index.reopen()
            return self._index

    def page(self) -> str:
        """Returns the page of the newest state."""
        index = self.index
        with self._lock:
            self._page = self._page or self._draw(index)
            return self._page

    def search(self, query: str, k: int, by: str) -> list[Hit]:
        """Searches by a file or an id; see `wsrl.search.index.Index.search`."""
        index = self.index
        with self._lock:
            return index.search(query, k, by)

    def _version(self) -> tuple[int, int]:
        stat = (self.directory / MANIFEST).stat()
        return stat.st_mtime_ns, stat.st_ino

    def _draw(self, index: Index) -> str:
        return page_html(page_content(index, self.by, neighbors=False), live=True)
