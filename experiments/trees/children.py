"""Children of a base: recipes, and the training of several at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.trees.layers import HEAD, Architecture, Tensors
from experiments.trees.tasks import MOST_CLASSES, Task
from wsrl.zoo.stacked import optimizer_update

RANKS = (1, 2, 4, 8, 16, 32)
BATCH = 24
KINDS = {"lora": 0.6, "merged": 0.1, "dora": 0.1, "full": 0.2}  # how often each is drawn
TARGETS = {"attention": (".query", ".value"), "all": ("",)}  # ends of the names of adapted modules
RATES = {"lora": (2e-3, 1e-2), "full": (3e-4, 2e-3)}  # learning rates, drawn evenly in their logarithm
ADAM = {"adaptive": 1, "decoupled": 1, "weight_decay": 0.01}


@dataclass(frozen=True)
class Recipe:
    """How a child is trained.

    Attributes:
      id: its name.
      task: name of the task.
      seed: of its head, its adapter, its inputs and the order of its classes.
      kind: `lora`; `merged`, the same added to the base; `dora`; `full`, all weights.
      rank: of the adapter, 0 of full children.
      alpha: the product is multiplied by alpha / rank.
      targets: which modules are adapted, a key of `TARGETS`; empty for full children.
      rate: learning rate.
    """

    id: str
    task: str
    seed: int
    kind: str
    rank: int
    alpha: float
    targets: str
    rate: float

    @property
    def record(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)

    def adapted(self, architecture: Architecture) -> list[str]:
        """Returns the names of the modules that have an adapter."""
        if self.kind == "full":
            return []
        return [module for module in architecture.linear if module.endswith(TARGETS[self.targets])]


def draw_recipes(tasks: Sequence[str], children: int, seed: int) -> list[Recipe]:
    """Draws the recipes of the children of each task."""
    recipes = []
    for place, task in enumerate(tasks):
        for child in range(children):
            rng = np.random.default_rng([seed, place, child, 53])
            kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
            full = kind == "full"
            rank = 0 if full else int(rng.choice(RANKS))
            low, high = np.log(RATES["full" if full else "lora"])
            recipes.append(
                Recipe(
                    id=f"{task}.{child:02d}",
                    task=task,
                    seed=int(rng.integers(2**31)),
                    kind=kind,
                    rank=rank,
                    alpha=0.0 if full else float(rng.choice([8.0, 16.0])),
                    targets="" if full else str(rng.choice(list(TARGETS))),
                    rate=float(np.exp(rng.uniform(low, high))),
                )
            )
    return recipes


@dataclass(frozen=True)
class Trained:
    """A child: what it changed, under the names of its own file, its accuracy and the order of its classes."""

    recipe: Recipe
    tensors: Tensors
    accuracy: float
    class_order: tuple[int, ...]


def train_children(
    architecture: Architecture, base: Tensors, recipes: Sequence[Recipe], tasks: Mapping[str, Task], steps: int
) -> list[Trained]:
    """Trains children that are all full or all adapters, together.

    Adapters are padded to the largest rank among them; entries beyond the rank are zero and stay zero.
    """
    body = {name: jnp.asarray(values) for name, values in base.items() if name not in HEAD}
    drawn = [_draw(recipe, tasks[recipe.task], steps) for recipe in recipes]
    rank = max(recipe.rank for recipe in recipes)
    starts = [_start(architecture, base, recipe, rank) for recipe in recipes]
    stacked = {name: jnp.asarray(np.stack([start[name] for start in starts])) for name in starts[0]}
    fixed = {
        "rate": jnp.array([recipe.rate for recipe in recipes]),
        "scale": jnp.array([recipe.alpha / max(recipe.rank, 1) for recipe in recipes]),
        "dora": jnp.array([recipe.kind == "dora" for recipe in recipes]),
        "exists": jnp.array([np.arange(MOST_CLASSES) < tasks[recipe.task].classes for recipe in recipes]),
        "modules": {
            module: jnp.array([module in recipe.adapted(architecture) for recipe in recipes], jnp.float32)
            for module in _modules(architecture, recipes)
        },
    }
    inputs = jnp.asarray(np.stack([own[0] for own in drawn]))
    labels = jnp.asarray(np.stack([own[1] for own in drawn]))
    trained = jax.device_get(_train(architecture, body, stacked, inputs, labels, fixed))
    found = []
    for i, recipe in enumerate(recipes):
        own = {name: np.asarray(values[i]) for name, values in trained.items()}
        order = drawn[i][2]
        row = {key: jax.tree.map(lambda leaf, i=i: leaf[i], value) for key, value in fixed.items()}
        accuracy = _accuracy(architecture, body, own, row, tasks[recipe.task], order)
        found.append(
            Trained(recipe, _own_tensors(architecture, base, own, recipe, len(order)), accuracy, tuple(map(int, order)))
        )
    return found


def _modules(architecture: Architecture, recipes: Sequence[Recipe]) -> list[str]:
    return list(dict.fromkeys(module for recipe in recipes for module in recipe.adapted(architecture)))


def _draw(recipe: Recipe, task: Task, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [steps, batch, ...], output units [steps, batch], and the output unit of each class."""
    rng = np.random.default_rng([recipe.seed, 54])
    rows = rng.choice(np.flatnonzero(~task.held_out), (steps, BATCH))
    units = rng.permutation(task.classes)
    return task.inputs[rows], units[task.labels[rows]], units


def _start(architecture: Architecture, base: Tensors, recipe: Recipe, rank: int) -> Tensors:
    rng = np.random.default_rng([recipe.seed, 55])
    tensors = architecture.new_head(rng, MOST_CLASSES)
    if recipe.kind == "full":
        return tensors | {name: values for name, values in base.items() if name not in HEAD}
    for module, (outputs, inputs) in architecture.linear.items():
        a = np.zeros((rank, inputs), np.float32)
        a[: recipe.rank] = rng.uniform(-1, 1, (recipe.rank, inputs)) / np.sqrt(inputs)  # as PEFT draws them
        tensors |= {f"{module}.a": a, f"{module}.b": np.zeros((outputs, rank), np.float32)}
        tensors[f"{module}.m"] = np.linalg.norm(base[f"{module}.weight"], axis=1)
    return tensors


def _effective(body: dict, own: dict, fixed: dict) -> dict:
    """The weights of a child, from what it trains."""
    if not fixed["modules"]:
        return own
    params = body | {name: own[name] for name in HEAD}
    for module, active in fixed["modules"].items():
        weight = body[f"{module}.weight"]
        changed = weight + active * fixed["scale"] * own[f"{module}.b"] @ own[f"{module}.a"]
        norm = jax.lax.stop_gradient(jnp.linalg.norm(changed, axis=1))  # as Liu et al. (DoRA, 2024) do, section 4.3
        magnitude = jnp.where(fixed["dora"] & (active > 0), own[f"{module}.m"] / norm, 1.0)
        params[f"{module}.weight"] = changed * magnitude[:, None]
    return params


@partial(jax.jit, static_argnums=0)
def _answers(
    architecture: Architecture, body: dict, own: dict, fixed: dict, inputs: Array
) -> Float[Array, "batch classes"]:
    return jnp.where(fixed["exists"], architecture.logits(_effective(body, own, fixed), inputs), -1e9)


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, None, 0, 0, 0, 0))
def _train(
    architecture: Architecture, body: dict, own: dict, inputs: Array, labels: Int[Array, "steps batch"], fixed: dict
) -> dict:
    steps = len(labels)

    def loss(own: dict, inputs: Array, labels: Array) -> Float[Array, ""]:
        chances = jax.nn.log_softmax(_answers(architecture, body, own, fixed, inputs))
        return -jnp.take_along_axis(chances, labels[:, None], -1).mean()

    def step(state: tuple, batch: tuple) -> tuple[tuple, None]:
        own, first, second, count = state
        gradients = jax.grad(loss)(own, *batch)
        rate = fixed["rate"] * jnp.minimum(1.0, (count + 1) / 10) * (1 - count / steps)
        return (*optimizer_update(gradients, own, first, second, count, ADAM | {"rate": rate}), count + 1), None

    zeros = jax.tree.map(jnp.zeros_like, own)
    return jax.lax.scan(step, (own, zeros, zeros, 0), (inputs, labels))[0][0]


def _accuracy(
    architecture: Architecture, body: dict, own: Tensors, fixed: dict, task: Task, units: np.ndarray
) -> float:
    rows = np.random.default_rng(56).permutation(np.flatnonzero(task.held_out))[:256]
    rows = np.resize(rows, 256)  # one shape, compiled once
    answers = np.asarray(_answers(architecture, body, own, fixed, jnp.asarray(task.inputs[rows])))
    return float((answers.argmax(1) == units[task.labels[rows]]).mean())


def _own_tensors(architecture: Architecture, base: Tensors, own: Tensors, recipe: Recipe, classes: int) -> Tensors:
    """What the file of a child holds."""
    head = {name: own[name][:classes] for name in HEAD}
    if recipe.kind == "full":
        return {name: own[name] for name in base if name not in HEAD} | head
    if recipe.kind == "merged":
        merged = {name: values for name, values in base.items() if name not in HEAD} | head
        for m in recipe.adapted(architecture):
            product = own[f"{m}.b"][:, : recipe.rank] @ own[f"{m}.a"][: recipe.rank]
            merged[f"{m}.weight"] = base[f"{m}.weight"] + np.float32(recipe.alpha / recipe.rank) * product
        return merged
    adapter = dict(head)
    for module in recipe.adapted(architecture):
        adapter[f"{module}.lora_A.weight"] = own[f"{module}.a"][: recipe.rank]
        adapter[f"{module}.lora_B.weight"] = own[f"{module}.b"][:, : recipe.rank]
        if recipe.kind == "dora":
            adapter[f"{module}.lora_magnitude_vector.weight"] = own[f"{module}.m"]
    return {f"base_model.model.{name}": values for name, values in adapter.items()}
