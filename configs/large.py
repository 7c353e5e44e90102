"""A zoo of some 30,000 checkpoints and an encoder with learned inputs, for one host of a TPU or GPU pod.

Command: python -m experiments.main --config=configs/large.py --workdir=runs/large --config.zoo.data_dir=DATA_DIR

DATA_DIR holds MNIST and Fashion-MNIST prepared by TensorFlow Datasets as array_record.

Cost: not measured, since it has not been run; its shapes are tested without computing. Every step sweeps 1,024
networks, so with 512 inputs 5,000 steps are some 2.6e9 forward passes of small networks and as many backward, where
the main job's encoder makes each network's 256 once.

Result: none yet.
"""

from typing import Any

import ml_collections

from configs import zoo


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration of the main job, made large."""
    config: Any = zoo.get_config()
    config.zoo.update(
        datasets="mnist,fashion_mnist",
        image_size=16,
        max_images=60_000,
        num_tasks=400,
        num_test_tasks=40,
        num_validation_tasks=20,
        num_seen_tasks=40,
        test_images=2000,
        runs_train=4,
        runs_validation=4,
        runs_seen=4,
        num_children=1000,
        steps=1500,
        batch_size=64,
        chunk_size=256,
    )
    config.encoder.update(
        tile=128,  # the side of a TPU's matrix unit
        probes=512,
        chunk=64,
        dtype="bfloat16",
        batch_cost=16_384,
        batch_size=1024,
        tasks_per_batch=128,
        steps=5000,
        validate_every=250,
        warmup_steps=200,
        input_learning_rate=1e-3,
    )
    config.gnn.update(width=64, edges=1_048_576, tasks_per_batch=64)
    return config
