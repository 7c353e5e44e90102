"""Queries, keys, values and outputs of attention, told by what a graph multiplies.

    scores = queries x keys,   mixed = softmax(scores) x values,   result = output projection of mixed

Each of the three is what one projection returns, whatever reshapes, scales or rotates it on the way; a gain for each
entry, as norms have, is more than that.
"""

from collections.abc import Mapping

from wsrl.wiring.tree import Shape
from wsrl.wiring.wiring import Fact

PROJECTIONS = ("MatMul", "Gemm", "FULLY_CONNECTED")
PRODUCTS = ("MatMul", "BATCH_MATMUL")
GAINS = ("Mul", "Div", "MUL", "DIV", "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
UNKNOWN = frozenset((-1,))


class AttentionTrace:
    """Follows products of two values through a graph.

    Args:
      shapes: of the tensors of the file.
    """

    def __init__(self, shapes: Mapping[str, Shape]):
        self._shapes = shapes
        self._sources: dict[str, frozenset[int]] = {}  # value -> projections that it comes from
        self._products: dict[str, tuple[int, ...]] = {}  # value -> projections of queries and keys, then of values
        self._parts: dict[int, str] = {}

    def follow(self, node: Mapping, layer: int | None) -> None:
        """Takes the next node; `layer` is its number among the operations if it reads tensors of the file."""
        inputs, op = node["inputs"], node["op"]
        products = [self._products[name] for name in inputs if name in self._products]
        long = [sum(n > 1 for n in self._shapes[name]) for name in inputs if name in self._shapes]
        sources = frozenset().union(*(self._sources.get(name, frozenset()) for name in inputs))
        product: tuple[int, ...] = products[0] if products else ()
        if layer is not None and op in PROJECTIONS and 2 in long:
            if len(product) == 3:
                self._name(*product, layer)
            product, sources = (), frozenset((layer,))
        elif op in GAINS and 1 in long:
            product, sources = (), UNKNOWN
        elif op in PRODUCTS and layer is None:
            product = self._multiply([name for name in inputs if name], products)
        if product:
            self._products |= dict.fromkeys(node["outputs"], product)
        self._sources |= dict.fromkeys(node["outputs"], sources)

    def _multiply(self, inputs: list[str], products: list[tuple[int, ...]]) -> tuple[int, ...]:
        """The projections of queries and keys if two values are these, with that of values if scores are multiplied."""
        if len(products) == 1 and len(products[0]) == 2:
            inputs = [name for name in inputs if name not in self._products]
        elif products:
            return ()
        sources = [self._sources.get(name, UNKNOWN) for name in inputs]
        if any(len(own) != 1 or own == UNKNOWN for own in sources):
            return ()
        return (*(products[0] if products else ()), *(next(iter(own)) for own in sources))

    def _name(self, query: int, key: int, value: int, output: int) -> None:
        if query == key == value:
            self._parts |= {query: "qkv", output: "o"}
        elif len({query, key, value}) == 3:
            self._parts |= {query: "q", key: "k", value: "v", output: "o"}

    def facts(self, layer: int) -> dict[str, Fact]:
        """Returns the part that a layer plays in attention, if any."""
        return {"part": Fact(self._parts[layer], "graph")} if layer in self._parts else {}
