"""Measures, for each target and number of labeled images, what every network is worth and what searches answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.tables.kept import read_kept
from experiments.transfer.gallery import Gallery, ask_by_data, ask_by_proxies, random_starts
from experiments.transfer.heads import UNLABELED, mean_worth, target_features, worth
from experiments.transfer.targets import LABELS, Target, as_examples, draw_labeled
from wsrl.annotations import Config
from wsrl.files import write_atomically
from wsrl.zoo.bank import ImageBank

DRAWS = 3  # of labeled images
FILE = "measured.json"
Cell = dict[str, Any]  # what one draw of labeled images gave; see `measure`


def key_of(count: int, draw: int) -> str:
    """Key of a cell: labeled images a class, and number of the draw."""
    return f"{count}/{draw}"


def measure_targets(
    config: Config, workdir: Path, gallery: Gallery, targets: Sequence[Target], bank: ImageBank
) -> dict[str, dict[str, Cell]]:
    """Cells by target and key; those that the folder holds of this gallery are not measured again."""
    settings = {"seed": config.seed, "models": [record.id for record in gallery.records]}
    settings |= {"encoder": gallery.encoded.hash, "draws": DRAWS, "labels": list(LABELS)}
    path = workdir / FILE
    state = read_kept(path, settings, "targets")
    for target in tqdm(targets, desc="targets", unit="target"):
        if target.name not in state["targets"]:
            state["targets"][target.name] = measure(config, gallery, target, bank)
            write_atomically(path, json.dumps(state).encode())
    return state["targets"]


def measure(config: Config, gallery: Gallery, target: Target, bank: ImageBank) -> dict[str, Cell]:
    """Cells of one target.

    A cell has, for every network of the gallery, lists `head`, `few_shot`, `evidence` and `evidence_seconds`, in which
    reading the labeled images counts; `random` has the same of each architecture with random weights. `scores` and
    `seconds` have what each search answers and what it costs.
    """
    pool, _ = bank.train[target.name]
    held_out, truth = bank.test[target.name]
    rows = np.concatenate([held_out, pool])
    unlabeled = np.random.default_rng([config.seed, 25]).choice(pool, UNLABELED)
    random = random_starts(config.image_size, config.seed)
    read = [target_features(start, bank, rows, unlabeled) for start in gallery.starts]
    untrained = {name: [target_features(s, bank, rows, unlabeled) for s in starts] for name, starts in random.items()}
    place_of = {row: place for place, row in enumerate(rows.tolist())}
    cells: dict[str, Cell] = {}
    for count in LABELS:
        for draw in range(DRAWS):
            part = draw_labeled(bank, target.name, count, draw).train
            own = np.array([place_of[row] for row in part.rows.tolist()])

            def value(features: np.ndarray, own: np.ndarray = own, part: Any = part) -> Any:
                return worth(features[own], part.labels, features[: len(held_out)], truth, target.classes)

            found = [value(features) for features, _ in read]
            examples = as_examples(bank, target, part, gallery.encoded.embedder.encoder.input_shape[0])
            answers = ask_by_data(gallery, examples) | {"proxies": ask_by_proxies(gallery, examples, draw)}
            cells[key_of(count, draw)] = {
                "head": [one.head for one in found],
                "few_shot": [one.few_shot for one in found],
                "evidence": [one.evidence for one in found],
                "evidence_seconds": [
                    one.seconds + seconds * len(own) for one, (_, seconds) in zip(found, read, strict=True)
                ],
                "random": {
                    name: mean_worth([value(features) for features, _ in own_read])._asdict()
                    for name, own_read in untrained.items()
                },
                "scores": {name: answer.scores.tolist() for name, answer in answers.items()},
                "seconds": {name: answer.seconds for name, answer in answers.items()},
            }
    return cells
