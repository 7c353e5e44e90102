"""Full fine-tuning of chosen starts on the targets: a fitted head, then all weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.tables.kept import read_kept
from experiments.transfer.heads import Start
from experiments.transfer.targets import Target, draw_labeled
from wsrl.files import write_atomically
from wsrl.zoo.bank import ImageBank
from wsrl.zoo.finetuning import FineTuner

RECORDED = (0, 10, 25, 50, 100)  # steps
RATES = (5e-4, 2e-3)  # highest learning rates to choose from, on validation targets
FILE = "fine_tuned.json"


class Tuned:
    """Curves of fine-tuned starts; those that the folder holds are not measured again.

    Args:
      workdir: that keeps them.
      bank: of all targets.
      settings: that starts depend on.
    """

    def __init__(self, workdir: Path, bank: ImageBank, settings: Mapping[str, Any]):
        self.path = workdir / FILE
        self.bank = bank
        self.state = read_kept(self.path, {**settings, "recorded": list(RECORDED)}, "curves")
        self.tuner = FineTuner(bank, stack=1)

    def curve(self, target: Target, count: int, draw: int, name: str, start: Start, rate: float, head: bool) -> dict:
        """Accuracies at `RECORDED` steps, as `accuracy`, and what a step and the head took, in seconds.

        Args:
          target, count, draw: tell the labeled images.
          name: of the start.
          start: where from.
          rate: highest learning rate.
          head: fit the head first.
        """
        key = "/".join((target.name, str(count), str(draw), name, f"{rate:g}", "head" if head else "no head"))
        if key not in self.state["curves"]:
            data = draw_labeled(self.bank, target.name, count, draw)
            found = self.tuner.fine_tune(start.model, [start.variables], data, (rate,), RECORDED, draw, head)
            self.state["curves"][key] = {
                "accuracy": found.test[0, 0].tolist(),
                "head_seconds": found.head_seconds,
                "step_seconds": found.step_seconds,
            }
            write_atomically(self.path, json.dumps(self.state).encode())
        return self.state["curves"][key]


def choose_rates(
    tuned: Tuned, targets: Sequence[Target], starts: Mapping[str, Mapping[str, tuple[Start, bool]]], count: int
) -> dict[str, float]:
    """The learning rate of each kind of start that is most accurate on validation targets, on average over steps.

    Args:
      tuned: curves.
      targets: of validation.
      starts: by kind and target, and whether its head is fitted first.
      count: labeled images a class.
    """
    best = {}
    for kind, of_targets in starts.items():
        means = []
        for rate in RATES:
            curves = [
                tuned.curve(target, count, 0, kind, *_with_rate(of_targets[target.name], rate))["accuracy"]
                for target in tqdm(targets, desc=f"{kind}, rate {rate:g}", unit="target")
            ]
            means.append(np.mean([curve[1:] for curve in curves]))
        best[kind] = RATES[int(np.argmax(means))]
    return best


def _with_rate(start: tuple[Start, bool], rate: float) -> tuple[Start, float, bool]:
    return start[0], rate, start[1]
