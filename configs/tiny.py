"""The whole job on a handful of networks: the end-to-end test, and a first look.

Command: python -m experiments.main --config=configs/tiny.py --workdir=runs/tiny

Cost: about a minute on two CPU cores; measured at 017811f.

Result: figures without meaning, since networks are few and hardly trained, and the encoder sees eight tasks.
"""

import ml_collections

from configs import zoo
from wsrl.annotations import Config


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration of the main job, made small."""
    config: Config = zoo.get_config()
    config.zoo.update(
        datasets="digits",
        families="mlp,cnn_gap",
        num_tasks=14,
        num_test_tasks=4,
        num_validation_tasks=2,
        num_seen_tasks=2,
        runs_train=1,
        runs_validation=1,
        runs_test=3,
        runs_seen=2,
        num_children=2,
        steps=60,
        batch_size=16,
        chunk_size=14,
    )
    config.encoder.update(seeds=2, probes=32, batch_size=32, tasks_per_batch=8, steps=40, validate_every=20)
    config.encoder.update(gradient_probes=32, warmup_steps=5, slack=8.0)
    config.starts.update(models=8, tasks=2)
    config.gnn.update(width=8, rounds=1, seconds=2.0, edges=32_768, validate_every=5)
    config.evaluation.update(resamples=100, invariance_models=4)
    return config
