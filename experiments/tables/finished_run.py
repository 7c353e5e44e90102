"""What a finished run of the main job holds, for the tables that are made from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.job.records import indices_by_split, make_examples, read_records
from experiments.job.workdir import encoder_directories, read_config, zoo_directory
from wsrl.annotations import Config
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import load_encoder
from wsrl.encoder.swept import Swept
from wsrl.errors import InputError
from wsrl.training.response_cache import load_kept
from wsrl.training.sampling import Examples
from wsrl.zoo.manifest import Record


@dataclass(frozen=True)
class FinishedRun:
    """A zoo with its encoders.

    Attributes:
      workdir: of the run.
      zoo: directory of the zoo.
      config: of the run.
      records: usable networks of the zoo.
      examples: what training may know of them.
      split: indices of the train, validation and test networks.
      encoders: of every seed, with its parameters.
      swept: of every seed, rows as in `records`.
    """

    workdir: Path
    zoo: Path
    config: Config
    records: Sequence[Record]
    examples: Examples
    split: dict[str, np.ndarray]
    encoders: Sequence[tuple[ResponseEncoder, Any]]
    swept: Sequence[Swept]

    @property
    def unseen(self) -> np.ndarray:
        """Indices of the test networks of tasks that no encoder was trained on."""
        seen = {self.records[i].task for i in self.split["train"]}
        return np.array([i for i in self.split["test"] if self.records[i].task not in seen])


def load_run(workdir: Path) -> FinishedRun:
    """Reads a run's folder.

    Raises:
      InputError: it holds no finished run.
    """
    config = read_config(workdir)
    zoo = zoo_directory(config, workdir)
    directories = encoder_directories(workdir, config.encoder.seeds)
    records, _ = read_records(zoo, config.seed)
    kept = load_kept(records, directories)
    if kept is None:
        raise InputError(workdir, "its run is not finished", "run experiments.main with this --workdir again")
    encoders = [load_encoder(directory) for directory in directories]
    split = indices_by_split(kept.records)
    return FinishedRun(workdir, zoo, config, kept.records, make_examples(kept.records), split, encoders, kept.swept)
