"""Refuses settings that no stage of the main job could work with, before anything is trained."""

from wsrl.annotations import Config
from wsrl.errors import InputError
from wsrl.training.losses import LOSSES
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.storage import STORAGES

LEAST = {  # value -> sections -> fields that must not be below it
    1: {
        "zoo": ("image_size", "chunk_size", "batch_size", "steps", "checkpoints", "stretch"),
        "encoder": (
            *("seeds", "tile", "window", "probes", "gradient_probes", "chunk", "dim", "rank"),
            *("batch_size", "tasks_per_batch", "steps", "validate_every"),
        ),
        "dataset_encoder": (
            *("validate_every", "batch_size", "tasks_per_batch", "data_sets", "fewest_examples", "most_examples"),
        ),
        "gnn": ("width", "rounds", "edges", "tasks_per_batch", "validate_every"),
        "starts": ("models",),
        "evaluation": ("resamples", "invariance_models"),
    },
    0.001: {"encoder": ("smoothing", "hard_negatives")},
    0: {
        "zoo": ("num_children", "num_distilled", "num_copies", "stretched"),
        "encoder": ("blur", "evidence", "template", "probe_size"),
        "dataset_encoder": ("steps",),
        "starts": ("tasks",),
        "gnn": ("steps",),
    },
}


def check_settings(config: Config) -> None:
    """Checks a configuration of the main job.

    Raises:
      InputError: names the first setting that is unusable.
    """
    for least, sections in LEAST.items():
        for section, fields in sections.items():
            for field in fields:
                value = config[section][field]
                if value < least:
                    raise InputError(f"{section}.{field}", f"{value} is too small", f"set it to {least} or more")
    if config.seed < 0:
        raise InputError("seed", f"{config.seed} is negative", "set it to 0 or more")
    for name, choices in (("catalogue", CATALOGUES), ("storage", STORAGES)):
        if config.zoo[name] not in choices:
            raise InputError(f"zoo.{name}", f"no {name} {config.zoo[name]!r}", f"choose from {', '.join(choices)}")
    encoder = config.encoder
    for field in ("shrinkage", "accuracy_shrinkage", "temperature", "margin"):
        if not encoder[field] > 0:
            raise InputError(f"encoder.{field}", f"{encoder[field]} is not positive", "set it above 0")
    if encoder.loss not in LOSSES:
        raise InputError("encoder.loss", f"no loss {encoder.loss!r}", f"choose from {', '.join(LOSSES)}")
    if encoder.warmup_steps >= encoder.steps:
        raise InputError("encoder.warmup_steps", "not less than encoder.steps", "change either")
    if encoder.probes % encoder.chunk:
        raise InputError("encoder.probes", "not a multiple of encoder.chunk", "change either")
    if encoder.gradient_probes > encoder.probes:
        raise InputError("encoder.gradient_probes", f"more than the {encoder.probes} of encoder.probes", "lower it")
    if config.dataset_encoder.fewest_examples > config.dataset_encoder.most_examples:
        raise InputError("dataset_encoder.fewest_examples", "more than most_examples", "change either")
    if not all(config.zoo.datasets.split(",")):
        raise InputError("zoo.datasets", "holds an empty name", "give names with commas between them")
