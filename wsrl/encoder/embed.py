"""The one way from networks to embeddings: validation, evaluation and the index all use it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wsrl.encoder.encoder import Encoding
from wsrl.graph.collection import Bucket


class Embedder:
    """Runs an encoder over buckets of networks, on all devices.

    Args:
      apply: (params, batch) -> Encoding; compiled once a bucket's plan.
    """

    def __init__(self, apply: Callable[[Any, Any], Encoding]):
        self.run = jax.pmap(apply, in_axes=(None, 0))
        self.devices = jax.local_device_count()

    def __call__(
        self, params: Any, buckets: Sequence[Bucket], progress: str | None = None
    ) -> tuple[Float[np.ndarray, "n dim"], Float[np.ndarray, "n"]]:
        """Returns embeddings and predicted accuracies by the members' places in the collection.

        Args:
          params: of the encoder.
          buckets: whose members are 0 to n - 1.
          progress: label of a progress line, or None for no line.
        """
        count = sum(len(bucket.members) for bucket in buckets)
        embeddings, accuracies = None, np.zeros(count, np.float32)
        with tqdm(total=count, desc=progress, unit="model", disable=progress is None, mininterval=1.0) as line:
            for bucket in buckets:
                packs = list(bucket.packs())
                for i in range(0, len(packs), self.devices):
                    group = packs[i : i + self.devices]
                    batches = [bucket.batch(chosen) for chosen in group]
                    batches += batches[-1:] * (self.devices - len(batches))  # all devices get a batch
                    encoding = self.run(params, jax.tree.map(lambda *leaves: np.stack(leaves), *batches))
                    embedding, accuracy = np.asarray(encoding.embedding), np.asarray(encoding.accuracy)
                    if embeddings is None:
                        embeddings = np.zeros((count, embedding.shape[-1]), np.float32)
                    for device, chosen in enumerate(group):
                        places = bucket.members[chosen]
                        embeddings[places] = embedding[device, : len(chosen)]
                        accuracies[places] = accuracy[device, : len(chosen)]
                        line.update(len(chosen))
        if embeddings is None:
            raise ValueError("no networks to embed")
        return embeddings, accuracies
