"""Infers which axis of which tensor holds which group of neurons, from names and shapes and `config.json`."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod

from wsrl.checkpoint import Checkpoint, CheckpointError, one_line
from wsrl.errors import InputError
from wsrl.readers.tensorflow_operators import LAYOUT
from wsrl.wiring.attention import Attention
from wsrl.wiring.blocks import (
    run_dense_block,
    run_dense_stages,
    run_position_convolution,
    run_position_features,
    run_token_mixing,
)
from wsrl.wiring.blockwise import rescue
from wsrl.wiring.dims import Value, fix
from wsrl.wiring.dual_state_space import run_dual_state_space
from wsrl.wiring.experts import Experts
from wsrl.wiring.facts import with_facts
from wsrl.wiring.flow import Flow
from wsrl.wiring.gated_convolution import run_conformer_convolution, run_gated_convolution, run_halving_convolutions
from wsrl.wiring.gathering import run_gathering
from wsrl.wiring.gguf_names import config_of, place_of
from wsrl.wiring.graph_flow import GraphFlow
from wsrl.wiring.graph_rules import RULES
from wsrl.wiring.keras_graph import keras_graph
from wsrl.wiring.keras_order import in_configured_order
from wsrl.wiring.keras_rules import KERAS_RULES, TENSORFLOW_RULES
from wsrl.wiring.known_blocks import is_known_network, run_known_block
from wsrl.wiring.linear_attention import run_linear_attention
from wsrl.wiring.lora import Adapters
from wsrl.wiring.modules import run_module, run_transform
from wsrl.wiring.order import numbered
from wsrl.wiring.outputs import finish, patch_of
from wsrl.wiring.scale import scales_of_chain, with_scales
from wsrl.wiring.state_space import run_state_space
from wsrl.wiring.tree import EMBEDDING, Node, natural, parse_tree
from wsrl.wiring.unusual import run_unusual
from wsrl.wiring.usual_forms import in_usual_form
from wsrl.wiring.values import Env
from wsrl.wiring.wiring import Axis, Neurons, Operation, Product, Segment, Wiring


def infer_wiring(checkpoint: Checkpoint) -> Wiring:
    """Infers the wiring of any checkpoint; what is not understood stays fixed and is named in the warnings.

    Raises:
      CheckpointError: the wiring cannot be inferred at all.
    """
    try:
        return _nothing_in_silence(_infer(checkpoint))
    except InputError:
        raise
    except Exception as error:  # rules meet files of all kinds; whatever goes wrong concerns this file alone
        reason = f"its wiring cannot be inferred ({type(error).__name__}: {one_line(error)})"
        raise CheckpointError(checkpoint.path, reason, "give a wiring of your own (--wiring), or report it") from error


def _nothing_in_silence(wiring: Wiring) -> Wiring:
    """Returns the wiring, with a warning where nothing is claimed of a network since its tensors' names say nothing."""
    unknown = [t for o in wiring.operations if o.type == "parameter" for t in o.tensors.values()]
    unknown = [name for name in unknown if len(wiring.shapes[name]) > 1]
    if wiring.warnings or not unknown or any(group.permutable for group in wiring.groups.values()):
        return wiring
    name = max(unknown, key=lambda name: prod(wiring.shapes[name]))
    told = f"{name} is of no known kind of layer, nor are {len(unknown) - 1} others: nothing tells what they read"
    return replace(wiring, warnings=(told,))


def _infer(checkpoint: Checkpoint) -> Wiring:
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    graph = checkpoint.metadata.get("graph")
    if isinstance(graph, Mapping):
        shown = GraphFlow(graph, shapes, TENSORFLOW_RULES if graph.get("layout") == LAYOUT else RULES)
        shown.run()
        return with_scales(_to_wiring(shown, shapes, shown.operations()), shown.scales())
    layers = keras_graph(checkpoint.keras_config, shapes)
    if layers is not None:
        shown = GraphFlow(layers, shapes, KERAS_RULES)
        shown.run()
        operations = in_configured_order(shown.operations(), checkpoint.keras_config)
        return _to_wiring(shown, shapes, with_facts(operations, checkpoint.metadata))
    adapters = Adapters({name: shape for name, shape in shapes.items() if prod(shape)})  # empty ones say nothing
    gguf = checkpoint.metadata.get("gguf")
    root = parse_tree(adapters.base, place_of if isinstance(gguf, Mapping) else str)
    config = config_of(gguf, adapters.base) if isinstance(gguf, Mapping) else checkpoint.config
    attention, experts = Attention(config, adapters.base), Experts(config)
    blocks = (
        run_dense_stages,
        run_dense_block,
        run_token_mixing,
        run_position_features,
        run_position_convolution,
        experts.run,
        partial(run_dual_state_space, config),
        partial(run_linear_attention, config),
        run_gated_convolution,
        run_halving_convolutions,
        run_conformer_convolution,
        run_state_space,
        run_transform,
    )
    flow = Flow(
        root,
        (run_known_block, run_gathering, run_unusual, *blocks, attention.run),
        (run_token_mixing, run_position_features, experts.run_router),
        run_module,
        rescue,
    )
    flow.tensors = checkpoint.tensors
    env = Env()
    if adapters.base:
        _run_root(flow, env)
    attention.finish(flow)
    if attention.unordered(bool(flow.embedded)):
        flow.warnings.append(
            "nothing tells positions apart: a fixed position code may order the units that it is added to"
        )
        for value in flow.embedded + attention.streams:
            fix(value)
    finish(flow, env, tied_head(config, adapters.base), patch_of(config))
    operations = in_usual_form(adapters.operations(flow.operations()), shapes)
    operations = in_configured_order(operations, checkpoint.keras_config)
    operations = with_facts(operations, checkpoint.metadata)
    wiring = _unwritten_fixed(_to_wiring(flow, shapes, operations, adapters.attach(flow, attention.products)))
    return with_scales(wiring, scales_of_chain(wiring, checkpoint.metadata.get("activation")))


def _run_root(flow: Flow, env: Env) -> None:
    alone = numbered(flow.root) or is_known_network(flow.root)  # it runs as a member
    root = Node((), children={"": flow.root}) if alone else flow.root
    if not flow.run_block(root, env):
        env.unknown = True
        flow.run_block(root, env)


def tied_head(config: dict, shapes: dict) -> bool:
    """Whether the network ends with a head that shares the weights of the token embedding."""
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return (
            bool(re.search(r"For[A-Z]|LMHead|MTModel|WithLM", str(architectures[0])))
            and config.get("tie_word_embeddings", True) is not False
        )
    words = max((s[0] for n, s in shapes.items() if len(s) == 2 and EMBEDDING.search(n) and "pos" not in n), default=0)
    if any(name.endswith("bias") and _stands_alone(name, words, shapes) for name in shapes):
        return True
    prefixes = {name.split(".")[0] for name in shapes}
    return len(prefixes) == 1 and prefixes <= {"transformer", "model", "bert", "roberta", "gpt"}


def _stands_alone(bias: str, words: int, shapes: dict) -> bool:
    """Whether a bias has a number for every word while nothing beside it has."""
    module = bias.rpartition(".")[0]
    alike = [name for name, shape in shapes.items() if words in shape and name.rpartition(".")[0] == module]
    return alike == [bias] and prod(shapes[bias]) == words > 1


def _to_wiring(
    flow: Flow | GraphFlow, shapes: dict, operations: tuple[Operation, ...], products: Sequence[Product] = ()
) -> Wiring:
    """Names the groups in the order in which tensors show them."""
    groups: dict[str, Neurons] = {}
    names: dict[int, str] = {}

    def segments(value: Value | None) -> Axis:
        if value is None:
            return None
        found = []
        for dim in value:
            root, outer, inner = dim.find()
            known = root.role != "hidden" or (not root.fixed and root.size > 1)
            if known and id(root) not in names:
                names[id(root)] = f"g{len(names)}"
                permutable = root.role == "hidden"
                groups[names[id(root)]] = Neurons(root.size, root.role, permutable)
            found.append(
                Segment(names[id(root)], root.size, outer, inner) if known else Segment(None, root.size * outer * inner)
            )
        return tuple(found) if any(s.group for s in found) else None

    axes = {
        name: tuple(segments(value) for value in flow.axes.get(name, [None] * len(shapes[name])))
        for name in sorted(shapes, key=natural)
    }
    shapes = {n: shapes[n] for n in axes}
    groups = _lone_ones_fixed(groups, axes, operations)
    return Wiring(groups, shapes, axes, operations, tuple(products), warnings=tuple(flow.warnings))


def _unwritten_fixed(wiring: Wiring) -> Wiring:
    """Fixes groups that several modules read and none writes: where those units come from has not been found."""
    written = {
        segment.group
        for operation in wiring.operations
        for tensor, axis in operation.writes
        if (tensor, axis) not in operation.reads
        for segment in wiring.axes[tensor][axis] or ()
    }
    groups = {n: replace(g, permutable=g.permutable and n in written) for n, g in wiring.groups.items()}
    return replace(wiring, groups=groups)


def _lone_ones_fixed(
    groups: dict[str, Neurons], axes: Mapping[str, tuple[Axis, ...]], operations: Sequence[Operation]
) -> dict[str, Neurons]:
    """Fixes groups that lie along a single axis of all matrices: what writes or what reads them has not been found.

    What only passes units on, one by one, such as a depthwise convolution, is neither.
    """
    passed = {place for o in operations for place in o.reads if place in o.writes}
    found = [(name, i, axis) for name, own in axes.items() if len(own) > 1 for i, axis in enumerate(own)]
    places = Counter(s.group for name, i, axis in found if (name, i) not in passed for s in axis or ())
    return {name: replace(g, permutable=g.permutable and places[name] > 1) for name, g in groups.items()}
