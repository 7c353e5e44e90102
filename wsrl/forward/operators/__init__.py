"""The operators that can be run, by their ONNX names; each module holds those of a kind."""

from wsrl.forward.operators import entries, products, recurrent, reductions, resize, shapes, windows
from wsrl.forward.operators.call import Operator

OPERATORS: dict[str, Operator] = {
    name: operator
    for module in (entries, products, recurrent, reductions, resize, shapes, windows)
    for name, operator in module.OPERATORS.items()
}
