"""A checkpoint whose network is being written down: tensors by usual names, configuration, what had to be assumed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from wsrl.forward.families.value import Shape, Trace, Value
from wsrl.wiring.tree import natural
from wsrl.wiring.wiring import Fact

Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]  # patterns and what is put in their place, in turn
T = TypeVar("T", bound=bool | int | float | str)


def renamed(name: str, renames: Renames) -> str:
    """Returns the name that a tensor has in the naming of another library."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


@dataclass(frozen=True)
class Config:
    """What a `config.json` says of a network, in the form of transformers or of timm; empty where there is none."""

    values: Mapping[str, object]

    @property
    def architecture(self) -> str:
        """Name of the model in timm, without the tag of its weights; "" if there is none."""
        name = self.values.get("architecture")
        return name.partition(".")[0] if isinstance(name, str) else ""

    @property
    def model_type(self) -> str:
        """Kind of the model in transformers; "" if there is none."""
        name = self.values.get("model_type")
        return name if isinstance(name, str) else ""

    def get(self, key: str) -> object:
        """Value of a key, of timm's those of `model_args` and `pretrained_cfg` too; None if there is none."""
        parts = [self.values, *(self.values.get(part) for part in ("model_args", "pretrained_cfg"))]
        return next((part[key] for part in parts if isinstance(part, Mapping) and part.get(key) is not None), None)


@dataclass
class Network:
    """What is known of a network and has been written of it.

    Attributes:
      stored: usual name of a tensor -> its name in the checkpoint.
      shapes: of tensors by their usual names.
      config: empty for a bare file.
      input_shape: [height, width, channels] that a user or the file states; None if neither does; once the input has
        been written down, its own.
      trace: the steps.
      facts: what names and shapes do not tell, with its source.
      used: usual names of tensors that steps read.
      activation: of hidden layers.
      epsilon: of norms, by their kind: `batch norm` or `norm`.
      same: whether convolutions with strides are padded as TensorFlow does, by what their last windows lack.
    """

    stored: Mapping[str, str]
    shapes: Mapping[str, Shape]
    config: Config
    input_shape: tuple[int, int, int] | None
    trace: Trace
    facts: dict[str, Fact] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    activation: str = "relu"
    epsilon: dict[str, float] = field(default_factory=lambda: {"batch norm": 1e-5, "norm": 1e-5})
    same: bool = False

    def tensor(self, name: str) -> Value:
        """A tensor by its usual name; KeyError if there is none."""
        if name not in self.stored:
            raise ValueError(f"it has no tensor {name!r}")
        self.used.add(name)
        return Value(self.trace, self.stored[name], self.shapes[name], batched=False)

    def choose(self, fact: str, usual: T, *keys: str) -> T:
        """Returns what the configuration says under one of its keys, else what is usual, and notes which it was."""
        value = self.config_value(usual, *keys)
        return self.assume(fact, usual) if value is None else self.know(fact, value, "config")

    def config_value(self, like: T, *keys: str) -> T | None:
        """Value of the first key that the configuration has, of the type of `like`; None if it has none."""
        kinds = (float, int) if isinstance(like, float) else (type(like),)
        values = (self.config.get(key) for key in keys)
        return next((cast(T, value) for value in values if isinstance(value, kinds)), None)

    def know(self, fact: str, value: T, source: str) -> T:
        """Notes a fact and returns its value."""
        self.facts[fact] = Fact(value, source)
        return value

    def assume(self, fact: str, value: T) -> T:
        """Notes what is taken for granted, unless a configuration names the architecture, which then tells it."""
        named = self.config.architecture or self.config.model_type
        return self.know(fact, value, "config" if named else "assumed")

    def image(self, channels: int, usual: int, divisor: int = 1, told: int | None = None) -> Value:
        """The input: images [channels, side, side].

        Args:
          usual: side that images have where nothing says it, in pixels.
          divisor: of the sides that the network can take; another side is refused.
          told: side that shapes tell, which goes before all else.

        Raises:
          ValueError: the sides that are stated do not fit.
        """
        stated = self.input_shape
        size = self.config.get("input_size") or self.config.get("image_size")
        sides = [n for n in (size if isinstance(size, list | tuple) else [size]) if isinstance(n, int)]
        if told is not None:
            height = width = told
            source = "shapes"
        elif stated is not None:
            height, width, source = *stated[:2], "metadata"
        elif sides:
            height, width, source = (sides[-2] if len(sides) > 1 else sides[-1]), sides[-1], "config"
        else:
            height, width, source = usual, usual, "assumed"
        known = stated[2] if stated else channels
        if height % divisor or width % divisor or known != channels:
            reads = f"it reads images of {channels} channels whose sides are multiples of {divisor} pixels"
            raise ValueError(f"{reads}, not of {height} x {width} pixels and {known}")
        self.facts["input"] = Fact((height, width, channels), source)
        self.input_shape = (height, width, channels)
        return Value(self.trace, self.trace.input, (channels, height, width))


def numbers(names: Iterable[str], path: str) -> list[int]:
    """Numbers of the modules directly below a path, ascending."""
    start = f"{path}." if path else ""
    found = {name[len(start) :].partition(".")[0] for name in names if name.startswith(start)}
    return sorted(int(n) for n in found if n.isdigit())


def children(names: Iterable[str], path: str) -> list[str]:
    """Names of modules and tensors directly below a path, in natural order."""
    start = f"{path}." if path else ""
    return sorted({name[len(start) :].partition(".")[0] for name in names if name.startswith(start)}, key=natural)
