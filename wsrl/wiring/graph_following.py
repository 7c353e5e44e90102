"""What follows the operations of a graph, see `Following`: the nodes without tensors that are read one by the other."""

from collections.abc import Collection, Mapping, Sequence

from wsrl.wiring.following import GLOBAL, Following
from wsrl.wiring.graph_facts import ACTIVATIONS, POOLS, Readers, integers
from wsrl.wiring.wiring import Fact, Value

PASSED = (  # operators that change no number and no order, or none when a network is used
    *("Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze"),
    *("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
)
FLATTENING = ("Flatten", "Reshape", "RESHAPE")
SHAPES = ("Shape", "SHAPE")  # they read no numbers of a value
SUMS = ("Add", "Sum", "ADD", "ADD_N")
MEANS = ("ReduceMean", "MEAN")
LAYOUTS = ([0, 2, 3, 1], [0, 3, 1, 2])  # of images, channels first or last
SLOPE = 0.01  # of leaky ReLU where nothing is said in ONNX


def following(
    value: str, fused: Fact | None, readers: Readers, tensors: Collection[str], constants: Mapping[str, object]
) -> dict[str, Fact]:
    """Returns the facts of what follows.

    Args:
      value: that an operation returns.
      fused: activation of the operation, if its node says so.
      readers: of the graph.
      tensors: names of the file's, which operations read.
      constants: of the graph.
    """
    found = Following("graph", fused)
    order = None  # whether channels come first, where layouts are changed
    seen: set[str] = set()
    while value not in seen:
        seen.add(value)
        nodes = [node for node in readers.nodes(value) if node["op"] not in SHAPES]
        product = readers.swish(nodes)
        if product is not None:
            found.activate("silu")
            value = product["outputs"][0]
            continue
        if len(nodes) != 1 or readers.is_output(value):
            _fork(found, nodes, tensors)
            break
        node = nodes[0]
        if any(name in tensors for name in node["inputs"]) or node["op"] in SUMS:
            _end(found, node, readers, tensors)
            break
        if not _step(found, node, constants):
            break
        if node["op"] in ("Transpose", "TRANSPOSE"):
            order = LAYOUTS.index(_permutation(node, constants)) == 1
        elif node["op"] in FLATTENING:
            first = order if order is not None else not node["op"].isupper()
            found.flatten("channels first" if first else "channels last")
        value = node["outputs"][0]
    if "followed_by" not in found.facts:
        found.facts.setdefault("activation", Fact("none", "graph"))
    return found.facts


def _step(found: Following, node: Mapping, constants: Mapping[str, object]) -> bool:
    """Takes up a node without tensors; False where it ends what is understood."""
    op, attributes = node["op"], node["attributes"]
    if op in ACTIVATIONS:
        slope = attributes.get("alpha", SLOPE if op == "LeakyRelu" else 0.0)
        if "leaky" in ACTIVATIONS[op] and abs(float(slope) - SLOPE) > 1e-6:
            found.stop(f"{op} of slope {slope:g}")
        found.activate(ACTIVATIONS[op])
    elif op in POOLS:
        found.pool(POOLS[op], *_windows(node))
    elif op in MEANS and _over_positions(node, constants):
        found.pool(GLOBAL)
    elif op not in PASSED and not (op in ("Transpose", "TRANSPOSE") and _permutation(node, constants) in LAYOUTS):
        found.stop(op)
    return "followed_by" not in found.facts


def _end(found: Following, node: Mapping, readers: Readers, tensors: Collection[str]) -> None:
    """Takes up the next operation, or the sum that the value is part of."""
    if node["op"] not in SUMS or any(name in tensors for name in node["inputs"]):
        return
    fused = node["attributes"].get("activation", "NONE")
    following = readers.only(node["outputs"][0])
    if fused != "NONE":
        found.add(ACTIVATIONS.get(fused, str(fused).lower()))
    elif following is not None and following["op"] in ACTIVATIONS:
        found.add(ACTIVATIONS[following["op"]])
    else:
        found.add("none")


def _fork(found: Following, nodes: Sequence[Mapping], tensors: Collection[str]) -> None:
    """A value that several nodes read; all are operations or sums, or it is not understood."""
    for node in nodes:
        if node["op"] not in SUMS and not any(name in tensors for name in node["inputs"]):
            found.stop(node["op"])


def _windows(node: Mapping) -> tuple[Value, Value, Value]:
    """Window, stride and padding of a pooling; nothing of one over whole maps or of a form that is not understood."""
    attributes = node["attributes"]
    if node["op"].isupper():
        window = integers((attributes.get("filter_height"), attributes.get("filter_width")))
        stride = integers((attributes.get("stride_h"), attributes.get("stride_w")))
        fused = attributes.get("activation", "NONE") != "NONE"
        return (None, None, None) if fused else (window, stride, str(attributes.get("padding", "valid")).lower())
    window = integers(attributes.get("kernel_shape"))
    odd = attributes.get("ceil_mode", 0) or any(n != 1 for n in attributes.get("dilations", ()))
    if window is None or odd:
        return None, None, None
    automatic = attributes.get("auto_pad", "NOTSET")
    padding = integers(attributes.get("pads")) or (0,) * 2 * len(window)
    stride = integers(attributes.get("strides")) or (1,) * len(window)
    return window, stride, padding if automatic == "NOTSET" else str(automatic).lower()


def _over_positions(node: Mapping, constants: Mapping[str, object]) -> bool:
    """Whether a mean is that over all positions of images."""
    dims = node["attributes"].get("axes") or _constant(node, constants)
    channels_last = node["op"].isupper()
    return isinstance(dims, list) and {d % 4 for d in dims} == ({1, 2} if channels_last else {2, 3})


def _permutation(node: Mapping, constants: Mapping[str, object]) -> object:
    return node["attributes"].get("perm") or _constant(node, constants)


def _constant(node: Mapping, constants: Mapping[str, object]) -> object:
    return constants.get(node["inputs"][1]) if len(node["inputs"]) > 1 else None
