"""Reads Core ML models: `.mlpackage` folders, `.mlmodel` files, and the networks in pipelines of them.

The messages: https://github.com/apple/coremltools, `mlmodel/format` (Model.proto, MIL.proto, NeuralNetwork.proto); the
layout of packages: its `modelpackage/src/ModelPackage.cpp`.
"""

from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers.budget import Budget
from wsrl.readers.coreml_network import read_network
from wsrl.readers.coreml_program import SENTINEL, read_program
from wsrl.readers.json_files import read_json_object
from wsrl.readers.links import file_beside
from wsrl.readers.mapped import map_file
from wsrl.readers.protobuf import VARINT, Kind, WireError, fields, read

MANIFEST, DATA = "Manifest.json", "Data"
COMPILED = ("coremldata.bin", "model.mil")
MEND = "save or download it again"
NETWORKS, PROGRAM, PIPELINES = (303, 403, 500), 502, (200, 201, 202)
MODEL = {number: (str(number), Kind.MESSAGE) for number in (*NETWORKS, PROGRAM, *PIPELINES)}
OTHERS = {
    **{302: "a tree ensemble", 402: "a tree ensemble", 300: "a linear model", 400: "a linear model"},
    **{301: "a support vector machine", 401: "a support vector machine", 404: "a nearest-neighbor classifier"},
}
DESCRIPTION = (1, 10, 11, 12, 13, 20, 21, 50, 100)  # fields of a ModelDescription
WRAPPED = {1: ("pipeline", Kind.MESSAGE)}  # pipelines of classifiers and regressors
PIPELINE = {1: ("models", Kind.MESSAGE)}
DEPTH = 4  # of pipelines in pipelines
BLOBS = 64  # where the first blob of a file of weights begins


def matches(head: bytes, path: Path) -> bool:
    """Whether the path is a package, a model, or the weights of a package."""
    if not head:
        return path.is_dir() and (((path / MANIFEST).is_file() and (path / DATA).is_dir()) or _is_compiled(path))
    return _is_model(head) or _is_weights(head)


def _is_compiled(path: Path) -> bool:
    return all((path / name).is_file() for name in COMPILED)


def _is_weights(head: bytes) -> bool:
    return head[4:8] == b"\2\0\0\0" and head[BLOBS : BLOBS + 4] == SENTINEL


def _is_model(head: bytes) -> bool:
    """Whether a message has a version and a description; that of ONNX has a text in the place of the latter."""
    try:
        for place, (number, wire, value) in enumerate(fields(memoryview(head))):
            if place == 0 and (number != 1 or wire != VARINT or not isinstance(value, int) or not 0 < value < 64):
                return False
            if place:
                return number == 2 and isinstance(value, memoryview) and _is_description(value)
    except WireError:  # the description reaches beyond the head
        start = next((i + 1 for i in range(3, 12) if head[i : i + 1] < b"\x80"), 12)
        return head[2:3] == b"\x12" and _is_description(memoryview(head)[start:])
    return False


def _is_description(message: memoryview) -> bool:
    numbers = []
    try:
        for number, wire, _ in fields(message):
            numbers.append((number, wire))
    except WireError:
        pass
    return bool(numbers) and all(number in DESCRIPTION for number, _ in numbers) and numbers[0][1] == 2


def open_file(path: Path) -> Checkpoint:
    """Opens a model, its weights dequantized.

    A program has a `graph` in its metadata, in the operators of ONNX where those do the same; see onnx.open_file.

    Raises:
      CheckpointError: the file is not well-formed, weights are missing, or the model is no network.
    """
    model = _model_file(path)
    data = map_file(model)
    budget = Budget(path, len(data))
    try:
        tensors, metadata = _read(data.data, model, budget, 0)
    except (WireError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({error})", MEND) from error
    return Checkpoint(str(path), tensors, metadata)


def _model_file(path: Path) -> Path:
    if path.is_dir():
        if _is_compiled(path):
            raise CheckpointError(path, "is a compiled Core ML model", "give the .mlpackage that it was compiled from")
        manifest = read_json_object(path / MANIFEST)
        match manifest:
            case {"rootModelIdentifier": str(root), "itemInfoEntries": dict(entries)} if isinstance(
                entries.get(root), dict
            ):
                return file_beside(f"{DATA}/{entries[root].get('path')}", path / MANIFEST)
        raise CheckpointError(path, f"its {MANIFEST} names no model", MEND)
    with open(path, "rb") as file:
        if not _is_weights(file.read(BLOBS + 4)):
            return path
    for name in ("model.mlmodel",):
        if (model := path.parent.parent / name).is_file():
            return model
    fix = "give the whole .mlpackage, whose model.mlmodel names them"
    raise CheckpointError(path, "holds the weights of a Core ML package, without names and shapes", fix)


def _read(message: memoryview, path: Path, budget: Budget, depth: int) -> tuple[dict, dict]:
    if depth > DEPTH:
        raise WireError("pipelines in pipelines in pipelines")
    model = read(message, MODEL, budget)
    if program := model[str(PROGRAM)]:
        return read_program(program[-1], path, budget)
    for number in NETWORKS:
        if network := model[str(number)]:
            return read_network(network[-1], path, budget)
    for number in PIPELINES:
        if pipeline := model[str(number)]:
            wrapped = pipeline if number == PIPELINES[-1] else read(pipeline[-1], WRAPPED, budget)["pipeline"]
            return _pipeline((wrapped or [memoryview(b"")])[-1], path, budget, depth)
    kinds = [OTHERS[number] for number, _, _ in fields(message) if number in OTHERS]
    reason = f"holds {kinds[0]}, no network" if kinds else "holds no network"
    raise CheckpointError(path, reason, "give a model with a neural network or an ML program")


def _pipeline(message: memoryview, path: Path, budget: Budget, depth: int) -> tuple[dict, dict]:
    """The tensors of all networks in a pipeline."""
    tensors, left_out, reasons = {}, [], []
    for number, model in enumerate(read(message, PIPELINE, budget)["models"]):
        try:
            inner, metadata = _read(model, path, budget, depth + 1)
        except CheckpointError as error:
            reasons.append(error)
            continue
        tensors |= {f"model{number}.{name}": tensor for name, tensor in inner.items()}
        left_out += [f"model{number}.{name}" for name in metadata["left_out"]]
    if not tensors and reasons:
        raise reasons[0]
    warnings = tuple(f"a part of the pipeline is not read: it {error.reason}" for error in reasons)
    return tensors, {"left_out": tuple(left_out), "warnings": warnings}
