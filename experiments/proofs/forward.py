"""Runs networks by their operators and in the runtime of their format, and compares what they answer.

    python -m experiments.proofs.forward FOLDER --images

takes every ONNX and TFLite file below a folder. The runtimes are onnxruntime, or the reference evaluator of onnx where
it is not installed, and ai-edge-litert. Networks that take images get natural ones, those of the encoder, resized and
standardized; with --images all others are left out, else they get normal noise. Every output is compared. The error is
the largest difference, divided by the largest answer. It should be below 1e-4, but for files whose activations are
quantized, which are run here on real numbers; these are marked and do not count. The exit status is 1 if another one
is above.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder.files import PRETRAINED, read_encoder
from wsrl.encoder.swept import fit_inputs
from wsrl.forward.cost import Cost
from wsrl.forward.from_checkpoint import GRAPHS
from wsrl.forward.graph import ForwardGraph
from wsrl.forward.image_network import image_shape
from wsrl.forward.run import run
from wsrl.readers import open_checkpoint

TOLERANCE = 1e-4
SUFFIXES = (".onnx", ".tflite")
SMALLEST = 1e-30
OPEN = 32  # stands for a length that a graph leaves open, where it takes no images
IMAGES = 4
QUANTIZED = ("Quantize", "Integer", "QLinear", "QGemm", "QAttention")  # parts of the names of operators on integers


class Proof(NamedTuple):
    """What came of a file.

    Attributes:
      error: see the module; None where it could not be compared.
      quantized: whether the runtime computes with integers.
      work: products and sums for one input, in billions.
      seconds: CPU time for one input.
      reason: why it could not be compared.
    """

    error: float | None
    quantized: bool = False
    work: float = 0.0
    seconds: float = 0.0
    reason: str = ""


def prove(path: Path, images_only: bool) -> Proof:
    """Compares a file's outputs, one after the other."""
    try:
        checkpoint = open_checkpoint(path)
        plain: Any = checkpoint.metadata["graph"]
        read = GRAPHS[checkpoint.format]
        outputs = [value["name"] for value in plain["outputs"] if value]
        graphs = [read(checkpoint, output) for output in outputs]
        inputs, image = _inputs(graphs[0], checkpoint)
        if images_only and not image:
            return Proof(None, reason="takes no images")
        cost, start = Cost(), time.process_time()
        found = [run(graph, checkpoint, inputs, cost) for graph in graphs]
        seconds = (time.process_time() - start) / len(inputs)
    except CheckpointError as error:
        return Proof(None, reason=error.reason)
    try:
        expected, quantized = (_onnx if checkpoint.format == "ONNX" else _tflite)(path, inputs)
    except Exception as error:  # a runtime may fail in any way
        return Proof(None, reason=f"the runtime fails: {' '.join(str(error).split())[:120]}")
    error = _error(found, expected)
    if error > TOLERANCE and checkpoint.format == "ONNX":  # onnxruntime rounds small probabilities
        error = min(error, _error(found, _reference(path, inputs)))
    return Proof(error, quantized, cost.work / len(inputs) / 1e9, seconds)


def _error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a.astype(float) - b).max() / max(np.abs(b).max(), SMALLEST)) for a, b in pairs)


def _inputs(graph: ForwardGraph, checkpoint: Checkpoint) -> tuple[np.ndarray, bool]:
    """What is fed, and whether it is images."""
    count = graph.batch or IMAGES
    try:
        size, last, _ = image_shape(graph, checkpoint)
    except CheckpointError:
        shape = (count, *(n or OPEN for n in graph.input_shape))
        return np.random.default_rng(0).normal(size=shape).astype(np.float32), False
    own = read_encoder(PRETRAINED)[1]["inputs"]
    images = 2 * fit_inputs(own[:: len(own) // count][:count], size)
    return np.ascontiguousarray(images if last else np.moveaxis(images, 3, 1)), True


def _onnx(path: Path, inputs: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Outputs in onnxruntime or the reference evaluator, and whether operators work on integers."""
    import onnx

    model = onnx.load(path)
    quantized = any(part in node.op_type for node in model.graph.node for part in QUANTIZED)
    weights = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in weights)
    with contextlib.suppress(ImportError):
        import onnxruntime  # pyright: ignore[reportMissingImports]

        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {name: inputs}), quantized
    return _reference(path, inputs), quantized


def _reference(path: Path, inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs in the reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(str(path))
    weights = {tensor.name for tensor in evaluator.proto_.graph.initializer}
    name = next(name for name in evaluator.input_names if name not in weights)
    return evaluator.run(None, {name: inputs})


def _tflite(path: Path, inputs: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Outputs in LiteRT, dequantized, and whether activations or the weights of float activations are integers."""
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    interpreter = Interpreter(str(path))
    told = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(told["index"], inputs.shape)
    interpreter.allocate_tensors()
    scale, zero = told["quantization"]
    given = inputs if not scale else np.round(inputs / scale + zero).clip(*_limits(told["dtype"])).astype(told["dtype"])
    interpreter.set_tensor(told["index"], given)
    interpreter.invoke()
    results = []
    for output in interpreter.get_output_details():
        scale, zero = output["quantization"]
        value = interpreter.get_tensor(output["index"])
        results.append((value.astype(np.float32) - zero) * scale if scale else value.astype(np.float32))
    kinds = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    return results, bool(kinds & {np.int8, np.uint8})


def _limits(dtype: type) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.proofs.forward", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="files or folders")
    parser.add_argument("--images", action="store_true", help="networks that take images, and no others")
    options = parser.parse_args(arguments)
    files = [path for given in options.paths for path in ([given] if given.is_file() else sorted(given.rglob("*")))]
    failed, compared = [], 0
    for path in (path for path in files if path.suffix in SUFFIXES):
        proof = prove(path, options.images)
        if options.images and proof.reason == "takes no images":
            continue
        if proof.error is None:
            print(f"-        {path}: {proof.reason}", flush=True)
            continue
        compared += 1
        note = " quantized" if proof.quantized else ""
        cost = f"{proof.work:.3f} billion products, {proof.seconds:.2f} s"
        print(f"{proof.error:.1e}{note}  {path}: {cost}", flush=True)
        failed += [path] if proof.error > TOLERANCE and not proof.quantized else []
    print(f"{compared} networks compared, {len(failed)} above {TOLERANCE:.0e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
