"""Groups the tensors of a checkpoint into modules, in PyTorch's and in Flax's naming."""

import re
from dataclasses import dataclass, field
from math import prod

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.program.layers import Norm, View

FIELDS = {
    "kernel": "weight", "weight": "weight", "scale": "weight", "bias": "bias", "embedding": "weight",
    "mean": "mean", "running_mean": "mean", "var": "variance", "running_var": "variance",
    "in_proj_weight": "in_proj_weight", "in_proj_bias": "in_proj_bias",
}  # fmt: skip
RECURRENT = re.compile(r"(weight|bias)_([ih])h_l(\d+)")  # PyTorch's; forward in time
POSITIONS = ("pos_embedding", "pos_embed", "position_embedding", "position_embeddings")
PREFIXES = ("params", "batch_stats", "module", "_orig_mod", "model", "state_dict", "net")


@dataclass
class Module:
    """The tensors of one module: field -> (tensor name, shape)."""

    path: tuple[str, ...]
    flax: bool
    fields: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Path as one word."""
        return ".".join(self.path)

    @property
    def kind(self) -> str:
        """`conv`, `dense`, `general` (Flax's DenseGeneral), `batch_norm`, `layer_norm` or `other`."""
        if "mean" in self.fields:
            return "batch_norm"
        dims = len(self.fields["weight"][1]) if "weight" in self.fields else 0
        return {1: "layer_norm", 2: "dense", 3: "general", 4: "conv"}.get(dims, "other")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.fields["weight"][1]

    @property
    def units(self) -> int:
        """Neurons that the module computes."""
        if self.kind in ("batch_norm", "layer_norm"):
            return self.fields.get("weight", self.fields.get("mean"))[1][0]  # type: ignore[index]
        return self.shape[-1] if self.flax else self.shape[0]

    @property
    def fan_in(self) -> int:
        """Input channels of a convolution, inputs of a dense layer."""
        return self.shape[-2] if self.flax else self.shape[1]

    @property
    def kernel(self) -> tuple[int, int]:
        """(height, width) of a convolution's kernel."""
        return self.shape[:2] if self.flax else self.shape[2:]  # type: ignore[return-value]

    def weight(self, flatten: tuple[int, int] | None = None) -> View:
        """View of the weight of a convolution or dense layer; `flatten` is the grid that a dense layer reads."""
        tensor, _ = self.fields["weight"]
        sizes = {"out": self.units, "in": self.fan_in}
        if self.kind == "conv":
            sizes |= {"ky": self.kernel[0], "kx": self.kernel[1]}
            axes = ("ky", "kx", "in", "out") if self.flax else ("out", "in", "ky", "kx")
            return View(tensor, tuple((a,) for a in axes), sizes)
        if flatten is None or prod(flatten) == 1:
            return View(tensor, (("in",), ("out",)) if self.flax else (("out",), ("in",)), sizes)
        sizes |= {"ky": flatten[0], "kx": flatten[1], "in": self.fan_in // prod(flatten)}
        inputs = ("ky", "kx", "in") if self.flax else ("in", "ky", "kx")
        return View(tensor, (inputs, ("out",)) if self.flax else (("out",), inputs), sizes)

    def biases(self) -> tuple[View, ...]:
        """View of the bias, where the module has one."""
        bias = self.vector("bias")
        return (bias,) if bias else ()

    def vector(self, name: str) -> View | None:
        """View of a field with one value a unit, e.g. the bias; None where the module has none."""
        if name not in self.fields:
            return None
        tensor, shape = self.fields[name]
        return View(tensor, (("out",),), {"out": shape[0]})

    def norm(self) -> Norm:
        """The tensors of a batch or layer norm."""
        epsilon = 1e-6 if self.flax and self.kind == "layer_norm" else 1e-5
        fields = (self.vector(name) for name in ("weight", "bias", "mean", "variance"))
        return Norm(*fields, epsilon=epsilon)


def natural_key(path: tuple[str, ...]) -> tuple:
    """Sorts `Conv_2` before `Conv_10`."""
    return tuple(
        tuple((1, int(s), "") if s.isdigit() else (0, 0, s) for s in re.split(r"(\d+)", part) if s) for part in path
    )


def parse_modules(checkpoint: Checkpoint) -> list[Module]:
    """Returns the modules in natural order of their names; tensors that belong to none are left out.

    A position embedding becomes a module of its own, with the field `position`. The matrices of a recurrent cell are
    modules `i` (of the inputs) and `h` (of the state), as in Flax.

    Raises:
      CheckpointError: no module has weights.
    """
    flax = any("/" in name or re.search(r"(^|[./])kernel$", name) for name in checkpoint.tensors)
    modules: dict[tuple[str, ...], Module] = {}
    for name, tensor in checkpoint.tensors.items():
        parts = [p for p in re.split(r"[./]", name) if p]
        while len(parts) > 1 and parts[0] in PREFIXES:
            parts = parts[1:]
        if parts[-1] in POSITIONS:
            path, role = tuple(parts), "position"
        elif match := RECURRENT.fullmatch(parts[-1]):
            role, matrix, layer = match.groups()
            path = (*parts[:-1], f"l{layer}", matrix)
        elif parts[-1] in FIELDS:
            path, role = tuple(parts[:-1]), FIELDS[parts[-1]]
        else:
            continue
        module = modules.setdefault(path, Module(path, flax))
        module.fields[role] = (name, tensor.shape)
    found = [modules[path] for path in sorted(modules, key=natural_key)]
    if not any(m.kind in ("conv", "dense") for m in found):
        raise CheckpointError(
            checkpoint.path, "no convolution or dense layer among its tensors", "give a file with weights"
        )
    return found
