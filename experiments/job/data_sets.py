"""The stage of the main job that fits data-set encoders, by which a zoo is asked with labeled examples."""

from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np

from wsrl.annotations import Config
from wsrl.data import normalize
from wsrl.encoder.dataset_encoder import init_dataset_params, save_dataset_encoder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import fit_inputs
from wsrl.training.fit import Fitted
from wsrl.training.fit_dataset import Data, fit_dataset_encoder
from wsrl.training.sampling import Examples
from wsrl.zoo.bank import ZooImages
from wsrl.zoo.manifest import Record


def task_data(images: ZooImages, records: Sequence[Record], examples: Examples, shape: tuple[int, int, int]) -> Data:
    """Training images and classes of each task, by its number in `examples`; images have the shape of inputs."""
    bank = images.bank
    numbers = {record.task: int(number) for record, number in zip(records, examples.task, strict=True)}
    return {
        numbers[name]: (fit_inputs(normalize(bank.images[rows])[..., None], shape), labels)
        for name, (rows, labels) in bank.train.items()
        if name in numbers
    }


def fit_data_sets(
    config: Config,
    encoder: ResponseEncoder,
    fitted: Fitted,
    examples: Examples,
    split: dict[str, np.ndarray],
    data: Data,
    directory: Path,
    seed: int,
) -> str:
    """Fits a data-set encoder to an encoder and writes it into its directory; without data it stays as it starts.

    Returns the hash of what was written.
    """
    settings: Config = ml_collections.ConfigDict({**config.encoder.to_dict(), **config.dataset_encoder.to_dict()})
    if data and settings.steps:
        module, params = fit_dataset_encoder(
            encoder,
            fitted.params,
            fitted.swept,
            fitted.encoding.embedding,
            examples,
            split["train"],
            split["validation"],
            data,
            settings,
            directory / "dataset_encoder",
            seed,
        )
    else:
        module, params = init_dataset_params(encoder, fitted.params["inputs"], seed)
    return save_dataset_encoder(directory, module, params, encoder, fitted.params)
