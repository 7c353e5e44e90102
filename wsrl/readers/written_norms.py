"""Finds layer norms that a graph writes out in single operators, as exporters before ONNX's opset 17 and TFLite do.

With d = x - mean(x), they are d / sqrt(mean(d^2) + epsilon) gain + shift, over the last axis (Ba et al. 2016).
"""

from collections.abc import Mapping

import numpy as np

from wsrl.checkpoint import LazyTensor

MEANS, DIFFERENCES = ("ReduceMean", "MEAN"), ("Sub", "SUB")
PRODUCTS, SUMS = ("Mul", "MUL"), ("Add", "ADD")
ROOTS, INVERSE_ROOTS = ("Sqrt", "SQRT"), ("RSQRT",)
QUOTIENTS = ("Div", "DIV")
PLAIN = (None, "NONE")


def with_layer_norms(
    nodes: list[dict],
    outputs: list[str],
    tensors: Mapping[str, LazyTensor],
    constants: Mapping[str, object],
    ranks: Mapping[str, int],
) -> list[dict]:
    """Puts one LayerNormalization in the place of the operators that write it out.

    Args:
      nodes: of a graph, in an order in which they can be run.
      outputs: names of its outputs.
      tensors: its constants.
      constants: values of small integer constants.
      ranks: number of axes of each value, as far as it is known.
    """
    search = _Search(nodes, outputs, tensors, constants, ranks)
    found = [norm for node in nodes if node["op"] in MEANS and (norm := search.from_mean(node))]
    gone = {id(node) for norm in found for node in norm[1]}
    placed = {id(norm[1][-1]): norm[0] for norm in found}
    return [placed.get(id(node), node) for node in nodes if id(node) not in gone or id(node) in placed]


class _Search:
    """Follows values from node to node."""

    def __init__(
        self,
        nodes: list[dict],
        outputs: list[str],
        tensors: Mapping[str, LazyTensor],
        constants: Mapping[str, object],
        ranks: Mapping[str, int],
    ):
        self.tensors, self.constants, self.ranks, self.outputs = tensors, constants, ranks, set(outputs)
        self.readers: dict[str, list[dict]] = {}
        for node in nodes:
            for name in dict.fromkeys(node["inputs"]):
                self.readers.setdefault(name, []).append(node)

    def from_mean(self, mean: dict) -> tuple[dict, list[dict]] | None:
        """Returns the norm that begins with a mean, and the nodes that it stands for."""
        x = mean["inputs"][0]
        if not self._over_last(mean):
            return None
        less = self._only(mean, DIFFERENCES)
        if less is None or less["inputs"] != [x, mean["outputs"][0]]:
            return None
        d = less["outputs"][0]
        square = next((node for node in self.readers.get(d, []) if self._is_square(node, d)), None)
        variance = self._only(square, MEANS)
        if square is None or variance is None or not self._over_last(variance):
            return None
        shifted = self._only(variance, SUMS)
        epsilon = self._number(shifted, variance)
        root = self._only(shifted, (*ROOTS, *INVERSE_ROOTS))
        if shifted is None or root is None or epsilon is None:
            return None
        scaled = self._only(root, PRODUCTS if root["op"] in INVERSE_ROOTS else QUOTIENTS)
        read = {id(node) for node in self.readers.get(d, [])}
        if scaled is None or d not in scaled["inputs"] or read != {id(square), id(scaled)}:
            return None
        if scaled["op"] in QUOTIENTS and scaled["inputs"] != [d, root["outputs"][0]]:
            return None
        inside, last, factors = [mean, less, square, variance, shifted, root, scaled], scaled, []
        for kinds in (PRODUCTS, SUMS):
            node = self._only(last, kinds) if _plain(last) else None
            factor = None if node is None else next((n for n in node["inputs"] if self._is_vector(n)), None)
            if node is None or factor is None:
                break
            inside, last = [*inside, node], node
            factors.append(factor)
        norm = {"op": "LayerNormalization", "domain": "", "name": last["name"] or last["outputs"][0]}
        told = {"axis": -1, "epsilon": epsilon, "activation": last["attributes"].get("activation", "NONE")}
        return {**norm, "inputs": [x, *factors], "outputs": last["outputs"], "attributes": told}, inside

    def _only(self, node: dict | None, kinds: tuple[str, ...]) -> dict | None:
        """The node of some kinds that alone reads what a node returns."""
        if node is None or len(node["outputs"]) != 1 or node["outputs"][0] in self.outputs:
            return None
        readers = self.readers.get(node["outputs"][0], [])
        fits = len(readers) == 1 and readers[0]["op"] in kinds and (_plain(readers[0]) or kinds == SUMS)
        return readers[0] if fits else None

    def _over_last(self, node: dict) -> bool:
        """Whether a mean is over the last axis, which stays with length 1."""
        axes = node["attributes"].get("axes")
        if axes is None and len(node["inputs"]) > 1:
            axes = self.constants.get(node["inputs"][1])
        keep = node["attributes"].get("keepdims", node["attributes"].get("keep_dims", node["op"] == "ReduceMean"))
        last = self.ranks.get(node["inputs"][0], 0) - 1
        return bool(keep) and axes in (-1, [-1], last, [last])

    def _is_vector(self, name: str) -> bool:
        """Whether a constant has one axis, but for axes of length 1 before it."""
        shape = self.tensors[name].shape if name in self.tensors else ()
        return bool(shape) and self.tensors[name].size == shape[-1]

    def _is_square(self, node: dict, d: str) -> bool:
        if node["op"] == "SQUARE" or (node["op"] in PRODUCTS and node["inputs"] == [d, d]):
            return True
        exponent = node["inputs"][1] if node["op"] in ("Pow", "POW") and node["inputs"][:1] == [d] else None
        return exponent is not None and self._value(exponent) == 2

    def _number(self, node: dict | None, other: dict) -> float | None:
        """The constant that a node adds to what another returns."""
        names = [name for name in node["inputs"] if name != other["outputs"][0]] if node is not None else []
        return self._value(names[0]) if len(names) == 1 else None

    def _value(self, name: str) -> float | None:
        tensor = self.tensors.get(name)
        return None if tensor is None or tensor.size != 1 else float(np.asarray(tensor).reshape(-1)[0])


def _plain(node: dict) -> bool:
    return node["attributes"].get("activation") in PLAIN
