"""Builds a model tree: a base and its children, as files that people have.

    python -m experiments.trees.build --workdir=runs/tree --data-dir=DATA_DIR [--of=texts] [--children=8]

A vision transformer of 210,000 parameters, or a text encoder of 300,000, is trained on the base sets of
`experiments.trees.kinds`; children are trained from it on tasks made of other sets, as full fine-tunes, as merged or
separate low-rank adapters in PEFT's layout, and with DoRA's magnitudes. Each has a new head, classes in an order of its
own, and its own draw of inputs. `subset` children are trained on random classes of one set, for the question which
classes those were. What is there already is not trained again: an interrupted build goes on where it ended. DATA_DIR
holds the `.npz` files with arrays `x` and `y`; those of texts are made by `experiments.trees.texts`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.numpy
from tqdm import tqdm

from experiments.trees.base import train_base
from experiments.trees.children import RANKS, Recipe, Trained, draw_recipes, train_children
from experiments.trees.kinds import IMAGES, TEXTS, Sets
from experiments.trees.layers import Architecture
from experiments.trees.tasks import MOST_CLASSES, Task, subset_tasks, tasks_of
from experiments.trees.text_encoder import text_encoder
from experiments.trees.texts import TextSet, load_text_set
from experiments.trees.vision_transformer import PIXELS, vision_transformer
from wsrl.cli.finish import finish
from wsrl.data import ImageSet, load_image_set
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.zoo.manifest import MANIFEST, Record, append_records, read_manifest

RULES = ("first", "second", "merged")
MOST = 2000  # images or texts of a set
TOGETHER = 16  # children that are trained at once


@dataclass(frozen=True)
class Kind:
    """What trees are made of.

    Attributes:
      make: returns the architecture.
      load: loads a set by its short name from the data folder.
      rule: name of the rule of tasks that need no classes.
      sets: names of the usual ones.
    """

    make: Callable[[], Architecture]
    load: Callable[[str, Path], ImageSet | TextSet]
    rule: str
    sets: Sets


def load_images(name: str, data_dir: Path) -> ImageSet:
    """Loads an image set of the data folder by its short name, from the folder itself or from one below it.

    Raises:
      InputError: there is none.
    """
    found = sorted(data_dir.rglob(f"{name}.npz"))
    if not found:
        raise InputError(data_dir, f"holds no {name}.npz", "name the folder with the image sets")
    return load_image_set(str(found[0]), None, PIXELS, MOST)


KINDS = {
    "images": Kind(vision_transformer, load_images, "turned", IMAGES),
    "texts": Kind(text_encoder, partial(load_text_set, most=MOST), "signs", TEXTS),
}


def base_of(
    workdir: Path, architecture: Architecture, sets: Sequence[ImageSet | TextSet], steps: int, seed: int
) -> dict[str, np.ndarray]:
    """Returns the base's tensors; trains and writes it if it is not there."""
    folder = workdir / "base"
    if not (folder / "model.safetensors").is_file():
        tensors, accuracy = train_base(architecture, sets, steps, seed)
        whole = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        write_atomically(folder / "config.json", json.dumps(architecture.config, indent=1).encode())
        write_atomically(folder / "accuracy.json", json.dumps({"accuracy": accuracy, "steps": steps}).encode())
        write_atomically(folder / "model.safetensors", safetensors.numpy.save(whole))
    return safetensors.numpy.load_file(folder / "model.safetensors")


def all_tasks(args: argparse.Namespace, kind: Kind, architecture: Architecture) -> dict[str, Task]:
    """Returns all tasks by their names."""
    found: list[Task] = []
    for split, chosen in (("train", args.train_sets or kind.sets.train), ("test", args.test_sets or kind.sets.test)):
        for name in chosen:
            own = kind.load(name, args.data_dir)
            found += tasks_of(own, name, split, (*RULES, kind.rule), architecture.ruled, args.seed)
    if args.subsets:
        name = args.subset_set or kind.sets.subset
        found += subset_tasks(kind.load(name, args.data_dir), name, args.subsets, MOST_CLASSES, args.seed)
    return {task.name: task for task in found}


def batches(recipes: Sequence[Recipe], done: set[str], seed: int) -> list[list[Recipe]]:
    """Returns what is trained together: full children, and adapters of low and of high ranks.

    The order is random, so that an unfinished tree has some children of every kind and task.
    """
    rng = np.random.default_rng([seed, 59])
    middle = RANKS[len(RANKS) // 2]
    groups: dict[tuple, list[Recipe]] = {}
    for place in rng.permutation(len(recipes)):
        recipe = recipes[place]
        if recipe.id not in done:
            groups.setdefault((recipe.kind == "full", recipe.rank > middle), []).append(recipe)
    found = [own[i : i + TOGETHER] for own in groups.values() for i in range(0, len(own), TOGETHER)]
    return [found[place] for place in rng.permutation(len(found))]


def write(zoo: Path, architecture: Architecture, child: Trained, task: Task, steps: int) -> Record:
    """Writes a child's folder and returns its line of the manifest."""
    recipe = child.recipe
    folder = zoo / recipe.id
    adapter = recipe.kind in ("lora", "dora")
    config = {
        "base_model_name_or_path": "base",
        "lora_alpha": recipe.alpha,
        "modules_to_save": ["classifier"],
        "peft_type": "LORA",
        "r": recipe.rank,
        "target_modules": sorted({module.split(".", 4)[-1] for module in recipe.adapted(architecture)}),
        "use_dora": recipe.kind == "dora",
    }
    file = "adapter_model.safetensors" if adapter else "model.safetensors"
    name, content = ("adapter_config.json", config) if adapter else ("config.json", architecture.config)
    write_atomically(folder / name, json.dumps(content, indent=1).encode())
    tensors = {name: np.ascontiguousarray(values) for name, values in child.tensors.items()}
    write_atomically(folder / file, safetensors.numpy.save(tensors))
    extra = {key: value for key, value in recipe.record.items() if key not in ("id", "task", "seed")}
    extra |= {"classes": task.classes, "sources": list(task.sources), "rule": task.rule}
    return Record(
        id=recipe.id,
        path=f"{recipe.id}/{file}",
        task=task.name,
        dataset=task.dataset,
        architecture=architecture.config["model_type"],
        activation="gelu",
        seed=recipe.seed,
        parent=None,
        step=steps,
        accuracy=child.accuracy,
        split=task.split if task.split in ("train", "test") else None,
        extra=extra,
    )


def build(args: argparse.Namespace) -> None:
    """Trains what is missing.

    Raises:
      InputError: a set is missing.
    """
    kind = KINDS[args.of]
    architecture = kind.make()
    sets = [kind.load(name, args.data_dir) for name in args.base_sets or kind.sets.base]
    base = base_of(args.workdir, architecture, sets, args.base_steps, args.seed)
    tasks = all_tasks(args, kind, architecture)
    recipes = draw_recipes([name for name, task in tasks.items() if task.rule != "subset"], args.children, args.seed)
    recipes += draw_recipes([name for name, task in tasks.items() if task.rule == "subset"], 1, args.seed + 1)
    zoo = args.workdir / "zoo"
    done = {record.id for record in read_manifest(zoo)[0]} if (zoo / MANIFEST).is_file() else set()
    with tqdm(total=len(recipes), initial=len(done), desc="children", unit="child") as bar:
        for own in batches(recipes, done, args.seed):
            trained = train_children(architecture, base, own, tasks, args.steps)
            append_records(
                zoo, [write(zoo, architecture, child, tasks[child.recipe.task], args.steps) for child in trained]
            )
            bar.set_postfix(accuracy=f"{np.mean([child.accuracy for child in trained]):.2f}")
            bar.update(len(own))


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the tree; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the tree")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the sets as .npz files")
    parser.add_argument("--of", choices=list(KINDS), default="images", help="what the tree is made of")
    parser.add_argument("--children", type=int, default=8, help="of each task")
    parser.add_argument("--subsets", type=int, default=160, help="children of random classes of one set")
    parser.add_argument("--steps", type=int, default=80, help="of a child")
    parser.add_argument("--base-steps", type=int, default=4000, help="of the base")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    for option, what in (
        ("--base-sets", "the base is trained on"),
        ("--train-sets", "tasks to learn from are made of"),
        ("--test-sets", "unseen tasks are made of"),
    ):
        parser.add_argument(option, nargs="+", metavar="NAME", help=f"sets that {what}")
    parser.add_argument("--subset-set", metavar="NAME", help="set of the subsets")
    args = parser.parse_args(argv)
    return finish(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
