"""What is known of a query: from the index if that holds it, else from the encoder."""

from pathlib import Path

from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.errors import InputError
from wsrl.search.file_identity import HUB, file_stat, printable_id, whole_digest
from wsrl.search.store import Store


class QueryRows:
    """Rows of queries for one state of an index.

    Args:
      store: the state.
      encoder: embeds what is not in the index; by default that of the package, when it is needed.
    """

    def __init__(self, store: Store, encoder: Encoder | None):
        self._store, self._encoder = store, encoder

    def row(self, name: str, function: bool) -> Embedded:
        """Returns the row of a checkpoint or of an id of the index.

        Args:
          name: a file that is in the index is not embedded again.
          function: whether to run the network.

        Raises:
          InputError: there is neither, or it cannot be used.
        """
        store, there = self._store, Path(name).exists()
        if there and not name.startswith(HUB):
            stat = file_stat(name)
            model = store.catalog.unchanged(stat) if stat else None
            if model is None and stat and store.catalog.of_size(stat.size) and (digest := whole_digest(name)):
                model = store.catalog.of_content(digest)
        else:
            model = store.catalog.get(printable_id(name))
        if model is not None:
            return store.embedded(model)
        if not there and not name.startswith(HUB):
            reason = f"is neither a checkpoint nor a model of the index {store.directory}"
            raise InputError(name, reason, "check the name")
        if self._encoder is None:
            encoder = load_encoder()
            store.manifest.check_encoder(store.directory, encoder.hash)
            self._encoder = encoder
        row = next(iter(self._encoder.embed([name], function=function)))
        if isinstance(row, Embedded):
            return row
        raise row
