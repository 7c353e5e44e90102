"""What is known of the values in a graph of ONNX while it is gone through, and where the scales of integers are."""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field

from wsrl.readers.onnx_constants import Constant
from wsrl.readers.onnx_layout import LAYOUT

PASSED = (*LAYOUT, "Identity", "Cast", "Gather", "Slice", "Expand", "Concat", "Split")  # a scale may follow behind them
FAR = 8  # nodes from an integer product to its scale


@dataclass(frozen=True)
class Factors:
    """What integers are multiplied by later: constants, and the values that nodes make of them."""

    scale: Constant
    zero: Constant | None
    made: tuple[str, ...]


@dataclass
class Scope:
    """What is known of the values of a graph, and behind them of those of the graphs around it.

    Attributes:
      constants: value -> the constant that it is.
      alias: value -> the value that it equals, scales aside.
      roles: value -> "scale" if it only scales, "unscaled" if later nodes multiply it by its scale.
      readers, makers: value -> the nodes that read it, the node that makes it.
    """

    constants: Mapping[str, Constant]
    alias: ChainMap[str, str] = field(default_factory=lambda: ChainMap())
    roles: ChainMap[str, str] = field(default_factory=lambda: ChainMap())
    readers: ChainMap[str, list[dict]] = field(default_factory=lambda: ChainMap())
    makers: ChainMap[str, dict] = field(default_factory=lambda: ChainMap())

    def within(self, nodes: list[dict]) -> "Scope":
        """The scope of a body with these nodes."""
        inner = Scope(
            self.constants,
            self.alias.new_child(),
            self.roles.new_child(),
            self.readers.new_child(),
            self.makers.new_child(),
        )
        readers = inner.readers.maps[0]
        for node in nodes:
            for name in dict.fromkeys(node["inputs"]):
                readers.setdefault(name, []).append(node)
            inner.makers.update(dict.fromkeys(node["outputs"], node))
        return inner

    def factors_after(self, name: str, indices: list[str] | None = None) -> Factors | None:
        """Finds the constant scale that later nodes multiply a value of integers by, and its zero point.

        Args:
          name: of the value.
          indices: of a Gather that made it; scales may be looked up by the same.
        """
        zero, waiting, seen = None, [name], set()
        passed: list[str] = []
        for _ in range(FAR):
            if not waiting:
                return None
            value = waiting.pop(0)
            for reader in self.readers.get(value, [])[:FAR]:
                inputs, op = reader["inputs"], reader["op"]
                if id(reader) in seen or not reader["outputs"]:
                    continue
                seen.add(id(reader))
                if op == "DequantizeLinear" and inputs[0] == value and len(inputs) > 1:
                    scale = self._factor(inputs[1], indices, passed)
                    if scale is not None:
                        zero = self._factor(inputs[2], indices, passed) if len(inputs) > 2 else zero
                        return Factors(scale, zero, tuple(passed))
                elif op == "Sub" and inputs[0] == value:
                    zero = self._factor(inputs[1], indices, passed) or zero
                    waiting += reader["outputs"]
                elif op == "Mul" and len(inputs) == 2:
                    other = inputs[1] if inputs[0] == value else inputs[0]
                    if (scale := self._factor(other, indices, passed)) is not None:
                        return Factors(scale, zero, tuple(passed))
                    waiting += reader["outputs"]
                elif op in PASSED and inputs[0] == value:
                    waiting += reader["outputs"]
        return None

    def _factor(self, name: str, indices: list[str] | None, passed: list[str]) -> Constant | None:
        """The constant behind a scale: itself, looked up by the indices, or multiplied by the scale of activations.

        Names of values on the way there are added to `passed`.
        """
        for _ in range(FAR):
            constant = self.constants.get(self.alias.get(name, name))
            maker = self.makers.get(name)
            if constant is not None or maker is None or not maker["inputs"]:
                return constant
            passed.append(name)
            if maker["op"] == "Mul":
                parts = [self.constants.get(part) for part in maker["inputs"]]
                return next((part for part in parts if part is not None), None)
            looked_up = maker["op"] == "Gather" and indices and maker["inputs"][1:] == indices
            if not looked_up and maker["op"] not in ("Cast", "Unsqueeze", "Reshape", "Identity"):
                return None
            name = maker["inputs"][0]
        return None
