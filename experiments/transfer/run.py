"""The transfer experiment from its sources to its tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.job.workdir import lock_workdir
from experiments.transfer.fine_tuning import Tuned, choose_rates
from experiments.transfer.gallery import Gallery, load_gallery, random_starts
from experiments.transfer.heads import Start
from experiments.transfer.measured import Cell, measure_targets
from experiments.transfer.sources import load_sources, train_sources
from experiments.transfer.starts import FIRST, choose_rule
from experiments.transfer.table import RANDOM, SCRATCH, SHOWN, TITLE, Results, picks_of, table_note, table_rows
from experiments.transfer.targets import Target, load_targets, of_split
from wsrl.annotations import Config
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import print_table, write_table

PRETRAINED = "trained on a source"
NAME = "transfer"


def run(config: Config, workdir: Path) -> None:
    """Trains, measures, chooses on validation targets, and writes the tables.

    Raises:
      InputError: a data set cannot be used, or the folder holds a run of another configuration.
    """
    targets, bank = load_targets(config)
    sources = load_sources(config)
    lock_workdir(config, workdir)
    records = train_sources(config, workdir / "zoo", sources)
    gallery = load_gallery(workdir / "zoo", records)
    cells = measure_targets(config, workdir, gallery, targets, bank)
    validation = of_split(targets, "validation")
    architecture = best_random(cells, validation)
    rules = {rule_name(first): choose_rule(cells, validation, gallery.records, first) for first in FIRST}
    results = Results(cells, {}, gallery.records, rules, architecture)
    tuned = Tuned(workdir, bank, {"seed": config.seed, "models": [record.id for record in gallery.records]})
    curves, rates = fine_tune(config, results, gallery, tuned, targets)
    results = results._replace(curves=curves)
    print(f"random weights: {architecture}; rates: {rates}; {rules}")
    for split, name in (("validation", f"{NAME}-validation"), ("test", NAME)):
        own = of_split(targets, split)
        rows = table_rows(results, own, config.seed)
        figure = bar_figure(rows, "start", [f"head, {SHOWN} a class"], "accuracy")
        title = TITLE if split == "test" else f"{TITLE}; validation targets"
        write_table(workdir, name, title, table_note(results, own, len(validation)), rows, figure)
        print_table(rows)


def rule_name(first: int) -> str:
    """What the table calls a rule."""
    return "vector and classes" + (f", LogME of {first}" if first > 1 else "")


def best_random(cells: Mapping[str, Mapping[str, Cell]], validation: Sequence[Target]) -> str:
    """The architecture whose random weights are most accurate under a fitted head on validation targets."""
    own = [cell["random"] for target in validation for cell in cells[target.name].values()]
    return max(own[0], key=lambda name: np.mean([random[name]["head"] for random in own]))


def fine_tune(
    config: Config, results: Results, gallery: Gallery, tuned: Tuned, targets: Sequence[Target]
) -> tuple[dict[str, dict[int, dict[str, Sequence[float]]]], dict[str, float]]:
    """Curves of full fine-tuning of what was picked for test targets, by target, labeled images a class, and start, and
    the learning rates.
    """
    untrained = random_starts(config.image_size, config.seed)[results.architecture]
    validation = of_split(targets, "validation")
    by_hand = {t.name: picks_of(results, t, SHOWN, 0)["same domain, by hand"].places[0] for t in validation}
    rates = choose_rates(
        tuned,
        validation,
        {
            PRETRAINED: {name: (gallery.starts[place], True) for name, place in by_hand.items()},
            RANDOM: {target.name: (untrained[0], True) for target in validation},
            SCRATCH: {target.name: (untrained[0], False) for target in validation},
        },
        SHOWN,
    )
    found: dict[str, dict[int, dict[str, Sequence[float]]]] = {}
    tested = of_split(targets, "test")
    work = [(target, int(count)) for count in config.tuned.split(",") for target in tested]
    for target, count in tqdm(work, desc="fine-tuning", unit="target"):
        own: dict[str, Sequence[float]] = {}

        def curve(name: str, start: Start, kind: str, target: Target = target, count: int = count) -> Sequence[float]:
            return tuned.curve(target, count, 0, name, start, rates[kind], kind != SCRATCH)["accuracy"]

        for name, pick in picks_of(results, target, count, 0).items():
            drawn = np.random.default_rng([config.seed, 26, count, tested.index(target)])
            place = pick.places[drawn.integers(len(pick.places))]  # of many, one is drawn
            own[name] = curve(gallery.records[place].id, gallery.starts[place], PRETRAINED)
        own[RANDOM] = curve(RANDOM, untrained[0], RANDOM)
        own[SCRATCH] = curve(SCRATCH, untrained[0], SCRATCH)
        found.setdefault(target.name, {})[count] = own
    return found, rates
