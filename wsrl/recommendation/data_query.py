"""A data set's own vector as the query: no model is trained."""

from pathlib import Path
from typing import Any

from wsrl.data import ImageSet, normalize
from wsrl.encoder.dataset_encoder import embed_dataset, load_dataset_encoder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.files import encoder_directory
from wsrl.recommendation.probes import Query


def data_query(images: ImageSet, directory: Path, encoder: ResponseEncoder, params: Any) -> Query:
    """Embeds all labeled examples by the data-set encoder that lies beside an encoder.

    Raises:
      InputError: none lies there that can be read and was fitted to this encoder.
    """
    dataset_encoder, dataset_params = load_dataset_encoder(encoder_directory(directory), encoder, params)
    x = normalize(images.x)[..., None]
    vector = embed_dataset(dataset_encoder, dataset_params, encoder, params, x, images.y)
    return Query(vector[None], ["data"], None)
