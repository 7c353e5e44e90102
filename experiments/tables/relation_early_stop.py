"""Whether the early stop of `wsrl compare` ever calls networks unrelated that a full run proves related.

    python -m experiments.tables.relation_early_stop --workdir=runs/early_stop [--seeds=10]

Draws random networks with wide layers of two forms: one whose residual stream has a fixed order, as BERT's body has,
and one in which all units can be permuted. Descendants are changed a little or a lot, or share only parts with their
base, and have all their units permuted, so that the order proves nothing. Each is compared with its base by the full
chains and by the early stop, and with another base. Writes `tables/early_stop.csv`: of each change the pairs that the
full run proves related, and those of them that were stopped, which would be wrong.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.benchmarks.streaming import CONFIGS, Shapes, bert
from experiments.tables.identity import four_bits
from experiments.tables.tiny_language_model import CONFIG
from wsrl.checkpoint import Checkpoint
from wsrl.cli.finish import finish
from wsrl.comparison.chain import Chains
from wsrl.comparison.early_stop import may_agree
from wsrl.comparison.matching import Agreement, significant
from wsrl.comparison.pairing import Pair, Sampled, pair_up
from wsrl.comparison.pieces import cut
from wsrl.errors import InputError
from wsrl.report.tables import Row, print_table, write_table
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

NAME, TITLE = "early_stop", "Early stop"
NOTE = "Random networks of two forms, changed and permuted, against their base; `stopped` are called unrelated early."
LAYERS, WIDTH, HIDDEN, VOCABULARY = 3, 96, 384, 80
NOISES = (0.3, 1.0, 2.0, 3.0)  # over the standard deviation of each tensor
PRUNED = (0.5, 0.9)  # share of the entries
ADDED = 64  # hidden units
COUNTS = "pairs", "related", "stopped", "related and stopped"
PARTS = {  # what is kept of the base; the rest is another network's
    "one perceptron shared": r"layers?\.1\.(mlp|intermediate|output)|embed|lm_head",
    "one layer shared": r"layers?\.1\.|embed|lm_head",
    "first layers shared": r"layers?\.[01]\.|embed",
    "last layers shared": r"layers?\.[12]\.|lm_head|pooler",
}

Tensors = dict[str, np.ndarray]


def llama() -> Shapes:
    """Tensors of a decoder whose units can all be permuted."""
    shapes: Shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, WIDTH)}
    for i in range(LAYERS):
        name = f"model.layers.{i}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (HIDDEN, WIDTH) for part in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (WIDTH, HIDDEN)
        shapes |= {f"{name}.{norm}.weight": (WIDTH,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return shapes | {"model.norm.weight": (WIDTH,)}


FORMS: dict[str, tuple[Shapes, dict]] = {
    "bert": (bert(LAYERS, WIDTH, VOCABULARY), CONFIGS["bert-base"]),
    "llama": (llama(), CONFIG),
}


def draw(form: str, seed: int) -> Checkpoint:
    """A network of random weights; those of norms are about 1."""
    shapes, config = FORMS[form]
    rng = np.random.default_rng([seed, 51])
    scales = {name: 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1 for name, shape in shapes.items()}
    tensors = {
        name: (scales[name] * rng.standard_normal(shape) + ("norm" in name.lower())).astype(np.float32)
        for name, shape in shapes.items()
    }
    return Checkpoint(f"{form} {seed}", tensors, {"config": config})


def descendants(base: Tensors, other: Tensors, rng: np.random.Generator) -> Iterator[tuple[str, Tensors]]:
    """Yields what is made of a network, with another one for the parts that are not shared."""
    for size in NOISES:
        noise = {n: size * t.std() * rng.standard_normal(t.shape) for n, t in base.items()}
        yield f"noise of {100 * size:.0f} %", {n: (t + noise[n]).astype(np.float32) for n, t in base.items()}
    for share in PRUNED:
        yield f"pruned {share}", {n: np.where(np.abs(t) < np.quantile(np.abs(t), share), 0, t) for n, t in base.items()}
    yield "four bits", four_bits(base)
    yield "mixed with another", {n: ((t + other[n]) / 2).astype(np.float32) for n, t in base.items()}
    for change, kept in PARTS.items():
        yield change, {n: t if re.search(kept, n) else other[n] for n, t in base.items()}
    yield "layer inserted", _inserted(base, other)
    yield "units added", {n: _widened(t, rng) for n, t in base.items()}


def _inserted(base: Tensors, other: Tensors) -> Tensors:
    """A layer of another network stands between the first and the second one."""
    moved = {n: t for n, t in base.items() if not re.search(r"layers?\.[12]\.", n)}
    for n, t in base.items():
        if found := re.search(r"(?<=\.)(\d)(?=\.)", n):
            number = int(found[1])
            moved[n[: found.start()] + str(number + (number > 0)) + n[found.end() :]] = t
            if number == 1:
                moved[n] = other[n]
    return moved


def _widened(tensor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """More hidden units of the perceptrons."""
    for axis, length in enumerate(tensor.shape):
        if length == HIDDEN:
            shape = (*tensor.shape[:axis], ADDED, *tensor.shape[axis + 1 :])
            more = (tensor.std() * rng.standard_normal(shape)).astype(np.float32)
            tensor = np.concatenate([tensor, more], axis)
    return tensor


def shuffled(checkpoint: Checkpoint, tensors: Tensors, seed: int) -> Checkpoint:
    """The tensors with all units permuted that can be."""
    changed = replace(checkpoint, tensors=tensors)
    return replace(changed, tensors=permuted(tensors, infer_wiring(changed), seed))


def judged(a: Checkpoint, b: Checkpoint) -> tuple[bool, bool]:
    """Whether the full chains prove two networks related, and whether the early stop ends the search before."""
    pairs: list[Pair] = pair_up(*(Sampled.of(cut(own)) for own in (a, b)))
    matrices = [pair for pair in pairs if pair.a and pair.b and pair.a.is_matrix]
    chains = Chains(matrices)
    chains.run()
    own = list(chains.agreements().values())
    return significant(own, sum(own, Agreement(0, 0))), not may_agree(matrices)


def rows_of(seeds: int) -> list[Row]:
    """Counts of all pairs."""
    counts: dict[tuple[str, str], np.ndarray] = {}
    for form in FORMS:
        for seed in tqdm(range(seeds), desc=form):
            base, other = draw(form, 2 * seed), draw(form, 2 * seed + 1)
            own, strange = ({n: np.asarray(t) for n, t in c.tensors.items()} for c in (base, other))
            made = [*descendants(own, strange, np.random.default_rng([seed, 52])), ("none: another network", strange)]
            for change, tensors in made:
                related, stopped = judged(base, shuffled(base, tensors, seed))
                found = np.array([1, related, stopped, related and stopped])
                counts[form, change] = counts.get((form, change), 0) + found
    rows: list[Row] = [
        {"form": form, "change": change, **dict(zip(COUNTS, found.tolist(), strict=True))}
        for (form, change), found in counts.items()
    ]
    total = sum(counts.values(), np.zeros(len(COUNTS), int)).tolist()
    rows.append({"form": "all", **dict(zip(COUNTS, total, strict=True))})
    return rows


def make_table(workdir: Path, seeds: int) -> None:
    """Writes and prints the table.

    Raises:
      InputError: no number that makes sense.
    """
    if seeds < 1:
        raise InputError("--seeds", f"{seeds} is too small", "set it to 1 or more")
    rows = rows_of(seeds)
    write_table(workdir, NAME, TITLE, NOTE, rows, None)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder that the table goes to")
    parser.add_argument("--seeds", type=int, default=10, help="bases of each form")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args.workdir, args.seeds))


if __name__ == "__main__":
    sys.exit(main())
