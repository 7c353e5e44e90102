"""Which network each way of choosing picks for a target, and what the choice costs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.transfer.measured import Cell
from experiments.transfer.targets import Target
from wsrl.recommendation.answer import NEAR
from wsrl.zoo.manifest import Record

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of the prior against the similarity, of which one is chosen
FIRST = (1, 5, 10)  # networks that LogME ranks anew; 1 leaves the order as it is
TIE = 1e-3  # weight of the steps of training in the prior: of one source, who was trained for longer comes first
SEARCHES = {"data": "retrieved by the data's vector", "proxies": "retrieved by proxies", "start": "start score"}


class Rule(NamedTuple):
    """How a search ranks, as it was chosen on validation targets.

    Attributes:
      by: search whose similarities count, see `SEARCHES`; None where the prior alone does.
      weight: of the logarithm of a network's number of classes, both in standard deviations of the gallery.
      first: networks that LogME ranks anew; 1 leaves the order as it is.
    """

    by: str | None
    weight: float
    first: int


class Pick(NamedTuple):
    """What was picked.

    Attributes:
      places: of the networks; the mean over them counts where there are several.
      seconds: CPU time of the search.
    """

    places: list[int]
    seconds: float = 0.0


def standardized(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Values less their mean, in standard deviations; zeros where all are equal."""
    values = np.asarray(values, np.float64)
    return (values - values.mean()) / (values.std() or 1.0)


def prior_of(records: Sequence[Record]) -> Float[np.ndarray, " models"]:
    """Logarithm of the number of classes, which the shape of a network's head tells, standardized."""
    classes = standardized(np.log([record.get("classes") for record in records]))
    return classes + TIE * standardized(np.array([record.step for record in records]))


def by_evidence(cell: Cell, order: Int[np.ndarray, " n"], first: int, seconds: float) -> Pick:
    """The network of the highest LogME among the first of an order."""
    tried = order[:first]
    best = int(tried[np.array(cell["evidence"])[tried].argmax()])
    return Pick([best], seconds + float(np.array(cell["evidence_seconds"])[tried].sum()))


def by_rule(cell: Cell, prior: Float[np.ndarray, " models"], rule: Rule) -> Pick:
    """What a rule picks."""
    similarity = standardized(cell["scores"][rule.by]) if rule.by else 0.0
    seconds = cell["seconds"][rule.by] if rule.by else 0.0
    order = np.argsort(-similarity - rule.weight * prior, kind="stable")
    return Pick([int(order[0])], seconds) if rule.first == 1 else by_evidence(cell, order, rule.first, seconds)


def choose_rule(
    measured: Mapping[str, Mapping[str, Cell]], validation: Sequence[Target], records: Sequence[Record], first: int
) -> Rule:
    """The rule under which fitted heads are most accurate on validation targets, of those that use a network's vector
    and try so many networks.
    """
    prior = prior_of(records)
    cells = [cell for target in validation for cell in measured[target.name].values()]
    known = [Rule(by, weight, first) for weight in WEIGHTS for by in SEARCHES]
    return max(known, key=lambda rule: np.mean([cell["head"][by_rule(cell, prior, rule).places[0]] for cell in cells]))


def pick_starts(
    cells: Mapping[str, Cell], key: str, target: Target, records: Sequence[Record], rules: Mapping[str, Rule]
) -> dict[str, Pick]:
    """Picks by name, for the labeled images of one cell of a target; `rules` are further ways by their names."""
    cell = cells[key]
    last = [place for place, record in enumerate(records) if record.step == record.get("steps")]

    def most(*keys: str) -> int:
        return max(last, key=lambda place: tuple(records[place].get(name) for name in keys))

    of_source = [place for place in last if records[place].dataset == target.by_hand]
    evidence = np.argsort(-np.array(cell["evidence"]), kind="stable")
    near = np.argsort(-np.array(cell["scores"]["data"]), kind="stable")
    count = key.split("/")[0]
    hindsight = np.mean([own["head"] for name, own in cells.items() if name.split("/")[0] == count], axis=0)
    prior = prior_of(records)
    drawn = np.random.default_rng([*f"{target.name}/{key}".encode()]).permutation(len(records))
    return {
        **{f"most classes, LogME of {n}": by_rule(cell, prior, Rule(None, 1.0, n)) for n in FIRST if n > 1},
        **{name: by_rule(cell, prior, rule) for name, rule in rules.items()},
        **{name: by_rule(cell, prior, Rule(by, 0.0, 1)) for by, name in SEARCHES.items()},
        f"any {FIRST[-1]}, LogME": by_evidence(cell, drawn, FIRST[-1], 0.0),
        f"data's vector, LogME of {NEAR}": by_evidence(cell, near, NEAR, cell["seconds"]["data"]),
        "LogME of all": by_evidence(cell, evidence, len(records), 0.0),
        "random pick": Pick(list(range(len(records)))),
        "highest accuracy told": Pick([most("accuracy")]),
        "source of most images": Pick([most("images", "parameters")]),
        "source of most classes": by_rule(cell, prior, Rule(None, 1.0, 1)),
        "same domain, by hand": Pick([max(of_source, key=lambda place: records[place].get("parameters"))]),
        "best in hindsight": Pick([int(hindsight.argmax())]),
    }


def value_of(cell: Cell, pick: Pick, what: str) -> float:
    """Mean over the picked networks of `head` or `few_shot`."""
    values: Any = np.array(cell[what])[pick.places]
    return float(values.mean())
