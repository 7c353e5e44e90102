"""Networks whose relations are known: bases, their fine-tuned, merged, quantized, pruned and grown descendants.

A lineage has a base, which is trained from a seed of its own on the same data by the same recipe as all others of its
architecture: bases are one another's siblings.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import flax.traverse_util
import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from experiments.tables import tiny_language_model as language
from experiments.tables.identity import as_pytorch, four_bits
from wsrl.checkpoint import Checkpoint
from wsrl.comparison.relation import Kind
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry
from wsrl.synthetic import dead_leaves, teacher_labels
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted
from wsrl.zoo.bank import EVALUATION_BATCH
from wsrl.zoo.copies import quantize
from wsrl.zoo.models import MLP, Classifier, CNNFlatten, CNNGap, ResNet, ViT
from wsrl.zoo.stacked import initialize, train_models

IMAGES, SIZE, CLASSES, BATCH, STEPS = 4000, 28, 10, 32, 500
TUNING = (1, 10, 100, 1000)  # steps
ADAPTER_RANK = 4
MERGES = {"average": (0.6, 0.4), "task vectors": (-0.3, 0.7, 0.6)}  # coefficients of the fine-tuned; with the base
QUANTIZERS = ("Q8_0", "Q5_0", "Q4_0")  # of GGUF

Tensors = dict[str, np.ndarray]
VISION: dict[str, Classifier] = {
    "mlp": MLP("relu", num_classes=CLASSES, widths=(96, 96)),
    "mlp tanh": MLP("tanh", num_classes=CLASSES, widths=(64, 64, 64)),
    "cnn": CNNGap("relu", num_classes=CLASSES, widths=(24, 32, 48), conv_strides=(2, 2, 2)),
    "cnn flatten": CNNFlatten(
        "tanh", num_classes=CLASSES, widths=(16, 24), conv_strides=(2, 2), hidden=48, use_bias=True
    ),
    "resnet": ResNet("relu", num_classes=CLASSES, widths=(24, 24, 32), block_strides=(2, 1, 2)),
    "vit": ViT("gelu", num_classes=CLASSES, widths=(32, 32), heads=4),
}
ARCHITECTURES = (*VISION, "llama")


@dataclass(frozen=True)
class Member:
    """A network of the zoo.

    Attributes:
      lineage: of its base.
      change: what was done to the base, or `base`.
      kind: what it is to its base.
      checkpoint: the network.
    """

    lineage: str
    change: str
    kind: Kind
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Recipe:
    """How the networks of an architecture are trained: (starts, task, seeds, steps, rate) -> tensors."""

    train: Callable[[Sequence[Tensors], int, Sequence[int], int, float], list[Tensors]]
    initial: Callable[[int], Tensors]
    metadata: Mapping[str, object]


def recipe(architecture: str) -> Recipe:
    """Returns the recipe of an architecture."""
    if architecture == "llama":
        return Recipe(language.train, language.initial, {"config": language.CONFIG})
    model = VISION[architecture]
    metadata = {"activation": model.activation, "input_shape": [SIZE, SIZE, 1], "strides": list(model.conv_strides)}
    metadata |= {"heads": model.heads} if model.heads else {}
    return Recipe(_trainer(model), lambda seed: _flat(initialize(model, SIZE, seed, 1.0)), metadata)


def _flat(variables: Any) -> Tensors:
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(values) for name, values in flat.items()}


def _trainer(model: Classifier) -> Callable[[Sequence[Tensors], int, Sequence[int], int, float], list[Tensors]]:
    images = dead_leaves(IMAGES, np.random.default_rng(41))

    def train(starts: Sequence[Tensors], task: int, seeds: Sequence[int], steps: int, rate: float) -> list[Tensors]:
        labels = teacher_labels(images, np.random.default_rng([task, 42]))
        rows = np.stack([np.random.default_rng([s, 43]).integers(IMAGES, size=(steps, BATCH)) for s in seeds])
        variables = [{"batch_stats": {}} | flax.traverse_util.unflatten_dict(start, sep="/") for start in starts]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
        zeros = jax.tree.map(jnp.zeros_like, stacked["params"])
        count = len(starts)
        state = {"variables": stacked, "first": zeros, "second": zeros, "step": jnp.zeros(count)}
        fixed = {
            "adaptive": 1,
            "decoupled": 1,
            "learning_rate": rate,
            "weight_decay": 0.01,
            "dropout": 0,
            "steps": steps,
        }
        runs = {name: jnp.full(count, value, jnp.float32) for name, value in fixed.items()}
        runs |= {"seed": jnp.asarray(seeds, jnp.uint32), "test_count": jnp.ones(count)}
        runs |= {name: jnp.zeros((count, EVALUATION_BATCH), jnp.int32) for name in ("test_images", "test_labels")}
        batches = jnp.asarray(rows, jnp.int32), jnp.asarray(labels[rows], jnp.int32)
        trained, _ = train_models(model, state, batches, runs, jnp.asarray(images))
        return [_flat(jax.tree.map(lambda leaf, i=i: leaf[i], trained["variables"])) for i in range(count)]

    return train


def bases(architecture: str, seeds: Sequence[int], steps: int = STEPS) -> list[Member]:
    """Trains siblings: the same data and recipe, other initial weights and batches."""
    own = recipe(architecture)
    trained = own.train([own.initial(seed) for seed in seeds], 0, seeds, steps, 3e-3)
    return [
        Member(f"{architecture} {seed}", "base", Kind.SAME_FILE, Checkpoint(f"{architecture}-{seed}", t, own.metadata))
        for seed, t in zip(seeds, trained, strict=True)
    ]


def descendants(
    architecture: str, roots: Sequence[Member], seed: int, tuning: Sequence[int] = TUNING
) -> Iterator[Member]:
    """Yields what is made of the bases; `tuning` are numbers of steps that they are fine-tuned for."""
    own = recipe(architecture)
    tensors = [{name: np.asarray(t) for name, t in root.checkpoint.tensors.items()} for root in roots]
    seeds = range(seed, seed + len(roots))
    tuned = {steps: own.train(tensors, 1, seeds, steps, 1e-3) for steps in tuning}
    usual = tuning[max(len(tuning) - 2, 0)]
    other = own.train(tensors, 2, seeds, usual, 1e-3)
    for i, root in enumerate(roots):
        rng = np.random.default_rng([seed, i])
        base = tensors[i]
        made: dict[str, tuple[Kind, Tensors]] = {
            f"{steps} steps": (Kind.FINE_TUNED, tuned[steps][i]) for steps in tuning
        }
        made[f"{usual} steps, another task"] = Kind.FINE_TUNED, other[i]
        made["adapter"] = Kind.ADAPTER, _adapted(base, tuned[usual][i])
        made["average"] = Kind.MERGE, _mixed([tuned[usual][i], other[i]], MERGES["average"])
        made["task vectors"] = Kind.MERGE, _mixed([base, tuned[usual][i], other[i]], MERGES["task vectors"])
        made |= {name: (kind, change(base, rng)) for name, (kind, change) in CHANGES.items()}
        if architecture == "llama":
            made |= {f"GGUF {name}": (Kind.SAME_PRECISION, _gguf(base, name)) for name in QUANTIZERS}
            made["layer doubled"] = Kind.EXTENDED, _doubled(base, rng)
            made["hidden units removed"] = Kind.PRUNED, _thinned(base, rng)
        elif architecture.startswith("mlp"):
            made["hidden units removed"] = Kind.PRUNED, _thinned_dense(base, rng)
        for change, (kind, changed) in made.items():
            checkpoint = replace(root.checkpoint, tensors=changed)
            yield Member(root.lineage, change, kind, checkpoint)
            if change in PERMUTED:
                scale = kind is not Kind.SAME_PRECISION  # blocks that share a scale would no longer
                yield Member(root.lineage, f"{change}, permuted", kind, symmetric(checkpoint, rng, scale))
        yield Member(root.lineage, "permuted, rescaled", Kind.SAME_SYMMETRY, symmetric(root.checkpoint, rng))


def symmetric(checkpoint: Checkpoint, rng: np.random.Generator, scale: bool = True) -> Checkpoint:
    """Permutes and, unless they may not be, rescales the units of a network at random."""
    if "config" not in checkpoint.metadata:
        return random_symmetry(checkpoint, read_program(checkpoint).wiring, rng, scale=scale, max_scale=8.0)
    tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=permuted(tensors, infer_wiring(checkpoint), int(rng.integers(2**31))))


def _is_weight(name: str, tensor: np.ndarray) -> bool:
    return tensor.ndim > 1 and not name.endswith("bias")


def _each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors, np.random.Generator], Tensors]:
    def changed(tensors: Tensors, rng: np.random.Generator) -> Tensors:
        return {n: change(t).astype(np.float32) if _is_weight(n, t) else t for n, t in tensors.items()}

    return changed


def _zeroed(share: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda tensor: np.where(np.abs(tensor) < np.quantile(np.abs(tensor), share), 0, tensor)


def _noisy(size: float) -> Callable[[Tensors, np.random.Generator], Tensors]:
    return lambda tensors, rng: {
        n: (t + size * t.std() * rng.standard_normal(t.shape)).astype(np.float32) for n, t in tensors.items()
    }


def _rounded(dtype: type) -> Callable[[Tensors, np.random.Generator], Tensors]:
    return lambda tensors, rng: {n: t.astype(dtype).astype(np.float32) for n, t in tensors.items()}


def _renamed(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    """Other names, and PyTorch's layout; of a language model, the same names in another order."""
    if not any("/" in name for name in tensors):
        return dict(reversed(tensors.items()))
    joined = {}
    for name, tensor in tensors.items():
        if re.search("/(query|key|value)/", name):  # [width, heads, dim]
            tensor = tensor.reshape(-1) if name.endswith("bias") else tensor.reshape(len(tensor), -1)
        elif name.endswith("/out/kernel"):
            tensor = tensor.reshape(-1, tensor.shape[-1])
        joined[name] = tensor
    return as_pytorch(joined)


CHANGES: dict[str, tuple[Kind, Callable[[Tensors, np.random.Generator], Tensors]]] = {
    "renamed": (Kind.SAME_WEIGHTS, _renamed),
    "float16": (Kind.SAME_WEIGHTS, _rounded(np.float16)),
    "bfloat16": (Kind.SAME_WEIGHTS, _rounded(ml_dtypes.bfloat16)),
    "int8": (Kind.SAME_PRECISION, lambda tensors, rng: quantize(tensors)),
    "four bits": (Kind.SAME_PRECISION, lambda tensors, rng: four_bits(tensors)),
    "noise of 1 %": (Kind.NOISE, _noisy(0.01)),
    "noise of 10 %": (Kind.NOISE, _noisy(0.1)),
    "pruned .3": (Kind.PRUNED, _each(_zeroed(0.3))),
    "pruned .5": (Kind.PRUNED, _each(_zeroed(0.5))),
    "pruned .9": (Kind.PRUNED, _each(_zeroed(0.9))),
}
PERMUTED = ("100 steps", "1000 steps", "noise of 10 %", "pruned .5", "four bits")


def _mixed(parents: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
    return {
        name: np.tensordot(weights, np.stack([p[name] for p in parents]), 1).astype(np.float32) for name in parents[0]
    }


def _adapted(base: Tensors, tuned: Tensors) -> Tensors:
    """Adds to each matrix what a low rank holds of the difference to a fine-tuned network, as a merged adapter does."""
    changed = dict(base)
    for name, tensor in base.items():
        if _is_weight(name, tensor) and min(tensor.shape[-1], tensor.size // tensor.shape[-1]) >= 4 * ADAPTER_RANK:
            u, s, vt = np.linalg.svd((tuned[name] - tensor).reshape(-1, tensor.shape[-1]), full_matrices=False)
            low = (u[:, :ADAPTER_RANK] * s[:ADAPTER_RANK]) @ vt[:ADAPTER_RANK]
            changed[name] = tensor + low.reshape(tensor.shape).astype(np.float32)
    return changed


def _gguf(tensors: Tensors, name: str) -> Tensors:
    kind = gguf.GGMLQuantizationType[name]
    return {
        n: gguf.quants.dequantize(gguf.quants.quantize(t, kind), kind) if t.ndim > 1 else t for n, t in tensors.items()
    }


def _doubled(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    """Repeats a layer after itself."""
    at = int(rng.integers(language.LAYERS))
    order = sorted([*range(language.LAYERS), at])
    kept = {n: t for n, t in tensors.items() if ".layers." not in n}
    for new, old in enumerate(order):
        start = f"model.layers.{old}."
        kept |= {f"model.layers.{new}.{n[len(start) :]}": t for n, t in tensors.items() if n.startswith(start)}
    return kept


def _thinned(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    """Removes a fourth of the hidden units of every perceptron of a language model."""
    kept = dict(tensors)
    for i in range(language.LAYERS):
        start = f"model.layers.{i}.mlp."
        size = len(tensors[f"{start}up_proj.weight"])
        units = np.sort(rng.permutation(size)[: 3 * size // 4])
        for part in ("gate", "up"):
            kept[f"{start}{part}_proj.weight"] = tensors[f"{start}{part}_proj.weight"][units]
        kept[f"{start}down_proj.weight"] = tensors[f"{start}down_proj.weight"][:, units]
    return kept


def _thinned_dense(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    """Removes a fourth of the units of each hidden layer of a perceptron."""
    kept = dict(tensors)
    layers = sorted({name.rsplit("/", 1)[0] for name in tensors})
    for before, after in pairwise(layers):
        size = len(tensors[f"{before}/bias"])
        units = np.sort(rng.permutation(size)[: 3 * size // 4])
        kept[f"{before}/kernel"] = kept[f"{before}/kernel"][:, units]
        kept[f"{before}/bias"] = kept[f"{before}/bias"][units]
        kept[f"{after}/kernel"] = kept[f"{after}/kernel"][units]
    return kept
