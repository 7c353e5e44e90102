"""Proves on real architectures with random weights that the symmetries which the wiring claims are symmetries.

    python -m experiments.proofs.verify [--models bert,timm/regnety_002 | --many] [--bare] [--json FILE]

Each model is built in PyTorch, saved with random weights, opened and solved like any other checkpoint. Then the units
of every permutable group are permuted at random, the heads of every product mixed and the units of every group with a
scale multiplied by factors; the tensors are loaded back, and the outputs, computed in float64, must stay what they
were. The exit status is 1 if a claim is false. Needs the extra `permcheck`. Columns:

    groups, products, scales   true ones of those that are claimed; groups of a single unit do not count
    strong    of the parameters in tensors with two axes or more, the share in tensors that have an axis in a permutable
              group and whose axes of 8 or more, except the taps of convolutions, lie wholly in groups; true ones only
    felt      share of the parameters that the outputs react to measurably
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.files import write_atomically
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import mixed, permuted, rescaled
from wsrl.wiring.wiring import Wiring

if TYPE_CHECKING:
    from experiments.proofs.architectures import Architecture

TOLERANCE = 1e-6  # relative error of the outputs
SHORT = 8  # axes below this need not lie in groups
SEED = 0

Part = TypeVar("Part")


@dataclass(frozen=True)
class Verdict:
    """What became of the claim about one model.

    Attributes:
      groups, products, scales: claimed ones.
      false_groups, false_scales: names of groups; false_products: the two tensors of each.
      strong, felt: shares, as in the table.
      seconds: from building to the end.
    """

    model: str
    groups: int
    products: int
    scales: int
    false_groups: tuple[str, ...]
    false_products: tuple[str, ...]
    false_scales: tuple[str, ...]
    strong: float
    felt: float
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether all that is claimed is true."""
        return not (self.false_groups or self.false_products or self.false_scales)


def verify(name: str, architecture: "Architecture", infer: Callable = infer_wiring, bare: bool = False) -> Verdict:
    """Judges what `infer` (Checkpoint -> Wiring) claims about an architecture with random weights.

    Args:
      bare: whether `infer` sees the weights alone, without the configuration beside them.
    """
    from experiments.proofs.random_model import RandomModel

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = RandomModel(architecture, Path(folder))
        if bare:
            (model.path.parent / "config.json").unlink(missing_ok=True)
        checkpoint = open_checkpoint(model.path)
        claim = infer(checkpoint)
        tensors = {key: np.array(tensor, np.float64) for key, tensor in checkpoint.tensors.items()}
        groups = [key for key, group in claim.groups.items() if group.permutable and group.size > 1]
        scales = [key for key, group in claim.groups.items() if group.scale != "none"]

        def broken(move: Callable) -> Callable[[Collection], bool]:
            return lambda some: not model.error(move(tensors, claim, SEED, some)) < TOLERANCE

        false_groups = tuple(find_false(broken(permuted), groups))
        false_products = find_false(broken(mixed), claim.products)
        return Verdict(
            model=name,
            groups=len(groups),
            products=len(claim.products),
            scales=len(scales),
            false_groups=false_groups,
            false_products=tuple(f"{p.left.tensor} x {p.right.tensor}" for p in false_products),
            false_scales=tuple(find_false(broken(rescaled), scales)),
            strong=strong_coverage(claim, model.convolutions, false_groups),
            felt=model.felt,
            seconds=time.perf_counter() - start,
        )


def find_false(broken: Callable[[Collection[Part]], bool], parts: Sequence[Part]) -> list[Part]:
    """Returns the parts of a claim that break the outputs, found by halving; all, if they do so only together."""
    if not parts or not broken(parts):
        return []
    if len(parts) == 1:
        return list(parts)
    middle = len(parts) // 2
    return find_false(broken, parts[:middle]) + find_false(broken, parts[middle:]) or list(parts)


def strong_coverage(claim: Wiring, convolutions: Collection[str], false: Collection[str] = ()) -> float:
    """Share of the parameters of tensors with two axes or more that the claim wires wholly.

    Args:
      convolutions: tensors whose axes from the third on are taps.
      false: groups that do not count.
    """
    moved = {key for key, group in claim.groups.items() if group.permutable and group.size > 1} - set(false)
    known = moved | {key for key, group in claim.groups.items() if group.role != "hidden"}

    def wired(name: str) -> bool:
        axes, shape = claim.axes[name], claim.shapes[name]
        kept = 2 if name in convolutions else len(shape)  # axes that are no taps
        long = [axis for axis, length in list(zip(axes, shape, strict=True))[:kept] if length >= SHORT]
        inside = all(axis is not None and all(s.group in known for s in axis) for axis in long)
        return inside and any(s.group in moved for axis in axes for s in axis or ())

    sizes = {name: prod(n) for name, n in claim.shapes.items() if len(n) > 1 and name not in claim.ignored}
    return sum(size for name, size in sizes.items() if wired(name)) / max(sum(sizes.values()), 1)


def chosen(names: str | None, many: bool = False) -> dict[str, "Architecture"]:
    """Returns architectures by their names, comma-separated; by default a dozen, or `many`.

    Raises:
      InputError: there is none of that name, or PyTorch is not installed.
    """
    require("torch", "permcheck")
    from experiments.proofs.architectures import ARCHITECTURES, TIMM, any_of_timm

    if names is None and not many:
        return ARCHITECTURES
    from experiments.proofs.many_architectures import MANY

    found = {}
    for name in MANY if names is None else names.split(","):
        if name not in MANY and not name.startswith(TIMM):
            known = ", ".join([*MANY, f"{TIMM}NAME"])
            raise InputError("--models", f"no architecture {name!r}", f"choose from {known}")
        found[name] = MANY.get(name) or any_of_timm(name.removeprefix(TIMM))
    return found


def print_table(verdicts: Sequence[Verdict]) -> None:
    """Prints a line a model, and what is false below."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model", no_wrap=True)
    for heading in ("groups", "products", "scales", "strong", "felt", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for v in verdicts:
        counts = (
            f"{claimed - len(false)}/{claimed}" if claimed else "-"
            for claimed, false in (
                (v.groups, v.false_groups),
                (v.products, v.false_products),
                (v.scales, v.false_scales),
            )
        )
        style = None if v.holds else "red"
        table.add_row(v.model, *counts, f"{v.strong:.3f}", f"{v.felt:.3f}", f"{v.seconds:.1f}", style=style)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for v in verdicts:
        for kind in ("groups", "products", "scales"):
            if false := getattr(v, f"false_{kind}"):
                console.print(f"{v.model}: false {kind}: {', '.join(false)}", style="red", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns the exit status: 1 if a claim is false, or the input is bad."""
    prog = "python -m experiments.proofs.verify"
    parser = argparse.ArgumentParser(prog=prog, description="Proves claims about wiring.")
    parser.add_argument("--models", metavar="NAME,...", help="timm/NAME for any model of timm; by default a dozen")
    parser.add_argument("--many", action="store_true", help="prove some seventy instead")
    parser.add_argument("--bare", action="store_true", help="without the config.json beside the weights")
    parser.add_argument("--json", metavar="FILE", help="for the verdicts")
    args = parser.parse_args(argv)
    verdicts = []
    try:
        with tqdm(chosen(args.models, args.many).items(), unit="model") as progress:
            for name, architecture in progress:
                progress.set_description(name)
                verdicts.append(verify(name, architecture, bare=args.bare))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_table(verdicts)
    if args.json:
        write_atomically(Path(args.json), json.dumps([asdict(v) for v in verdicts], indent=2).encode())
    return 0 if all(v.holds for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
