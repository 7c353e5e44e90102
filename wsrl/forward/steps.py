"""Steps under way, of files whose operators become ONNX's."""

import numpy as np

from wsrl.forward.graph import Step

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # orders of axes: to channels first, and back


class Steps:
    """Steps so far, and the small arrays that they read."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """Adds a step with one result, and returns the result's name."""
        name = f"{op}:{len(self.steps)}"
        self.steps.append(Step(op, inputs, (name,), attributes))
        return name

    def add_on_channels_first(self, op: str, value: str, *others: str, **attributes: object) -> str:
        """Adds a step on maps whose channels are last, with views that have them first before it and last behind it."""
        first = self.add("Transpose", value, perm=FIRST)
        return self.add("Transpose", self.add(op, first, *others, **attributes), perm=LAST)

    def constant(self, value: object) -> str:
        """Names a small array."""
        name = f"constant:{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name
