"""The graph in a `model.json` of TensorFlow.js: a GraphDef as JSON, whose constants lie in the manifest of weights.

The layout: https://github.com/tensorflow/tfjs, `tfjs-converter/src/data/compiled_api.ts`. Texts are in base64 or lists
of codes, and whole numbers may be texts.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

from wsrl.readers.budget import Budget
from wsrl.readers.tensorflow_operators import Step


def read_steps(topology: Mapping[str, object], budget: Budget) -> list[Step]:
    """Returns the nodes of a graph; attributes of unknown kinds are None, and what is no node is left out.

    Raises:
      CheckpointError: it has more nodes than the budget allows.
    """
    nodes = topology.get("node")
    found = []
    for node in budget.each(nodes if isinstance(nodes, list) else []):
        match node:
            case {"name": str(name), "op": str(op)}:
                pass
            case _:
                continue
        inputs, attributes = node.get("input"), node.get("attr")
        sources = (s for s in (inputs if isinstance(inputs, list) else []) if isinstance(s, str) and s[:1] != "^")
        settings = attributes.items() if isinstance(attributes, dict) else ()
        found.append(Step(name, op, tuple(sources), {key: _setting(told) for key, told in settings}))
    return found


def signature_outputs(signature: object) -> tuple[str, ...]:
    """Returns the names of what a graph returns; none where its signature does not tell."""
    outputs = signature.get("outputs") if isinstance(signature, dict) else None
    found = [
        told.get("name") for told in (outputs.values() if isinstance(outputs, dict) else ()) if isinstance(told, dict)
    ]
    return tuple(name for name in found if isinstance(name, str))


def _setting(told: Any) -> object:
    match told:
        case {"shape": {"dim": [*lengths]}}:
            sizes = [_integer(length.get("size")) if isinstance(length, dict) else None for length in lengths]
            return [n if n is not None and n >= 0 else None for n in sizes]
        case {"list": {"i": [*numbers]}} if numbers:
            whole = [n for n in map(_integer, numbers) if n is not None]
            return whole if len(whole) == len(numbers) else None
        case {"list": {"s": [*texts]}}:
            return [_text(text) for text in texts]
        case {"s": text}:
            return _text(text)
        case {"i": number}:
            return _integer(number)
        case {"f": int() | float() as number}:
            return float(number)
        case {"b": bool() as flag}:
            return flag
    return None


def _integer(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, int | str) else None
    except ValueError:
        return None


def _text(value: object) -> str:
    if isinstance(value, str):
        try:
            return str(base64.b64decode(value), "utf-8", "replace")
        except (binascii.Error, ValueError):
            return value
    codes = value if isinstance(value, Iterable) else ()
    return "".join(chr(code) for code in codes if isinstance(code, int) and 0 <= code < 128)
