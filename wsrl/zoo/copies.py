"""Copies of trained networks, as zoos hold them beside the originals: quantized, pruned, or with noise.

Each changes the weights a little and keeps the task.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from wsrl.zoo.bank import ImageBank, run_arrays
from wsrl.zoo.manifest import Record
from wsrl.zoo.predictions import predict
from wsrl.zoo.recipes import Run
from wsrl.zoo.storage import checkpoint_bytes, read_variables

Tensors = dict[str, np.ndarray]

LEVELS = 127  # of int8 on either side of zero
PRUNED = 0.5  # share of the entries of a matrix
NOISE = 0.01  # of a tensor's standard deviation


def quantize(tensors: Mapping[str, np.ndarray], seed: int = 0) -> Tensors:
    """Round weight matrices to int8 and back, with one scale a tensor and no offset; vectors stay as they are.

    Symmetric quantization of weights (Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018). `seed` is not used.
    """

    def rounded(tensor: np.ndarray) -> np.ndarray:
        scale = np.abs(tensor).max(initial=0) / LEVELS
        return np.rint(tensor / scale) * scale if scale else tensor

    return _changed(tensors, rounded)


def prune(tensors: Mapping[str, np.ndarray], seed: int = 0) -> Tensors:
    """Set the smaller half of the entries of each weight matrix, by magnitude, to zero.

    Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015), without training
    afterwards. `seed` is not used.
    """

    def pruned(tensor: np.ndarray) -> np.ndarray:
        kept = tensor.ravel().copy()
        kept[np.argsort(np.abs(kept), kind="stable")[: int(PRUNED * kept.size)]] = 0
        return kept.reshape(tensor.shape)

    return _changed(tensors, pruned)


def add_noise(tensors: Mapping[str, np.ndarray], seed: int = 0) -> Tensors:
    """Add Gaussian noise to every tensor, NOISE times the standard deviation of its entries.

    A tensor without negative entries, as the variances of a norm, gets none.
    """
    rng = np.random.default_rng(seed)
    changed = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        deviation = tensor.std() if tensor.size else 0.0
        noisy = tensor + NOISE * deviation * rng.standard_normal(tensor.shape)
        changed[name] = (noisy if (tensor < 0).any() else np.maximum(noisy, 0)).astype(tensor.dtype)
    return {name: changed[name] for name in tensors}


KINDS = {"quantized": quantize, "pruned": prune, "noisy": add_noise}


def _changed(tensors: Mapping[str, np.ndarray], change: Any) -> Tensors:
    """Change the weight matrices: tensors of two axes or more that are no biases."""
    return {
        name: change(tensor).astype(tensor.dtype) if tensor.ndim > 1 and not name.endswith("bias") else tensor
        for name, tensor in tensors.items()
    }


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy to be made: of which checkpoint, of which kind, and the seed of its noise."""

    of: Record
    kind: str
    seed: int

    @property
    def run(self) -> str:
        """Name of the copy."""
        return f"{self.of.get('run')}-{self.kind}"


def draw_copies(records: Sequence[Record], number: int, seed: int = 0) -> list[Copy]:
    """Draw checkpoints and the kinds of their copies, kinds in turn; at most one copy of a checkpoint.

    Args:
        records: final checkpoints; copies among them are left out.
        number: of copies; all checkpoints are copied where there are fewer.
        seed: fixes everything.
    """
    rng = np.random.default_rng([seed, 2])
    originals = [record for record in records if "copy" not in record.extra]
    drawn = [originals[i] for i in rng.permutation(len(originals))[:number]]
    kinds = list(KINDS)
    return [Copy(of, kinds[i % len(kinds)], int(rng.integers(2**31))) for i, of in enumerate(drawn)]


def copy_chunks(copies: Sequence[Copy], runs: Mapping[str, Run], chunk_size: int) -> Iterator[list[Copy]]:
    """Yield copies in chunks of one architecture; `runs` has the run of each checkpoint by its id."""
    groups: dict[tuple[str, int], list[Copy]] = {}
    for copy in copies:
        run = runs[copy.of.get("run")]
        groups.setdefault((run.family, run.variant), []).append(copy)
    for _, group in sorted(groups.items()):
        for start in range(0, len(group), chunk_size):
            yield group[start : start + chunk_size]


def make_copies(
    copies: Sequence[Copy],
    runs: Mapping[str, Run],
    directory: Path,
    image_size: int,
    bank: ImageBank,
    device_bank: jax.Array,
) -> list[tuple[Record, bytes]]:
    """Make copies and measure their accuracy on the held-out images of their task.

    Returns records and safetensors files. Raises CheckpointError where an original cannot be read.
    """
    changed = []
    for copy in copies:
        tensors: Any = flax.traverse_util.flatten_dict(read_variables(directory, copy.of), sep="/")
        changed.append(KINDS[copy.kind](tensors, copy.seed))
    of = [runs[copy.of.get("run")] for copy in copies]
    tests: list[Any] = [run_arrays(run, bank, 1) for run in of]
    variables = [{"batch_stats": {}} | flax.traverse_util.unflatten_dict(tensors, sep="/") for tensors in changed]
    predicted = predict([run.model for run in of], variables, [test["test_images"] for test in tests], device_bank)
    made = []
    for copy, run, tensors, test, units in zip(copies, of, changed, tests, predicted, strict=True):
        accuracy = (units == test["test_labels"]).sum() / test["test_count"]
        extra = {key: value for key, value in copy.of.extra.items() if key != "record"}
        record = dataclasses.replace(
            copy.of,
            id=f"{copy.run}/{copy.of.step}",
            path=f"checkpoints/{copy.run}/{copy.of.step}.safetensors",
            parent=copy.of.id,
            accuracy=round(float(accuracy), 6),
            extra=extra | {"run": copy.run, "copy": copy.kind},
        )
        made.append((record, checkpoint_bytes(tensors, run.model, image_size)))
    return made
