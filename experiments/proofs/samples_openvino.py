"""Samples of OpenVINO, as in `experiments.proofs.samples`, written after the format's own description."""

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import ml_dtypes
import numpy as np

from experiments.proofs.samples import registrar, write

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)

KINDS = {"float32": "f32", "float16": "f16", "int64": "i64", "int8": "i8", "uint8": "u8", "bfloat16": "bf16"}


class NetWriter:
    """Builds a net layer by layer; each layer has one output."""

    def __init__(self):
        self.layers, self.edges, self.content = [], [], b""

    def layer(self, kind, lengths, inputs=(), inner="", **data):
        """Adds a layer and returns what its output is called: its number and shape."""
        number = len(self.layers)
        ports = ""
        for port, (source, read) in enumerate(inputs):
            ports += f'<port id="{port}">{dims(read)}</port>'
            ends = {"from-layer": source, "from-port": 0, "to-layer": number, "to-port": port}
            self.edges.append(f"<edge {attributes(ends)}/>")
        output = "" if kind == "Result" else f'<output><port id="0">{dims(lengths)}</port></output>'
        self.layers.append(
            f'<layer id="{number}" name="{kind.lower()}_{number}" type="{kind}" version="opset1">'
            f"<data {attributes(data)}/><input>{ports}</input>{output}{inner}</layer>"
        )
        return number, lengths

    def constant(self, array, kind=None):
        """Adds a constant; of two numbers a byte where `kind` is one of four bits."""
        content = array.tobytes()
        if kind is not None:
            codes = array.reshape(-1).astype(np.uint8) & 15
            content = (codes[::2] | codes[1::2] << 4).tobytes()
        place = {"offset": len(self.content), "size": len(content)}
        self.content += content
        shape = ",".join(map(str, array.shape))
        return self.layer("Const", array.shape, element_type=kind or KINDS[array.dtype.name], shape=shape, **place)  # pyright: ignore[reportArgumentType]

    def net(self):
        """The XML of what was added so far."""
        layers, edges = "".join(self.layers), "".join(self.edges)
        return f'<net name="net" version="11"><layers>{layers}</layers><edges>{edges}</edges></net>'

    def save(self, path):
        """Writes both files."""
        write(path.with_suffix(".bin"), self.content)
        return write(path, f'<?xml version="1.0"?>\n{self.net()}'.encode())


def dims(shape):
    """The lengths of a shape."""
    return "".join(f"<dim>{n}</dim>" for n in shape)


def attributes(values):
    """Attributes of an element."""
    return " ".join(f"{key}={quoteattr(str(value))}" for key, value in values.items())


def numbers():
    """What the constants of the sample stand for: a convolution, a grouped one, dense layers of 4 and 8 bits."""
    rng = np.random.default_rng(0)
    return {
        "conv": rng.standard_normal((4, 3, 3, 3)).astype(np.float16),
        "grouped": rng.standard_normal((4, 1, 1, 3, 3)).astype(np.float32),
        "codes": rng.integers(0, 16, (8, 2, 2)),
        "zero": np.full((8, 2, 1), 7),
        "scale": rng.uniform(0.5, 2, (8, 2, 1)).astype(np.float16),
        "bytes": rng.integers(-127, 128, (2, 8)).astype(np.int8),
        "steps": rng.uniform(0.5, 2, (2, 1)).astype(np.float32),
    }


@sample("openvino")
def net_file(folder):
    """A network whose weights are compressed in all the usual ways."""
    a, net = numbers(), NetWriter()
    windows = {"strides": "1,1", "dilations": "1,1", "pads_begin": "1,1", "pads_end": "1,1", "auto_pad": "explicit"}
    x = net.layer("Parameter", (1, 3, 8, 8), element_type="f32", shape="1,3,8,8")
    weight = net.layer("Convert", a["conv"].shape, [net.constant(a["conv"])], destination_type="f32")
    x = net.layer("ReLU", (1, 4, 8, 8), [net.layer("Convolution", (1, 4, 8, 8), [x, weight], **windows)])
    x = net.layer("GroupConvolution", (1, 4, 8, 8), [x, net.constant(a["grouped"])], **windows)
    x = net.layer("ReduceMean", (1, 4), [x, net.constant(np.array([2, 3]))], keep_dims="false")
    codes, zero = (
        net.layer("Convert", a[key].shape, [net.constant(a[key], "u4")], destination_type="f16")
        for key in ("codes", "zero")
    )
    weight = net.layer("Subtract", a["codes"].shape, [codes, zero])
    weight = net.layer("Multiply", a["codes"].shape, [weight, net.constant(a["scale"])])
    weight = net.layer("Reshape", (8, 4), [weight, net.constant(np.array([8, 4]))], special_zero="false")
    x = net.layer("MatMul", (1, 8), [x, weight], transpose_a="false", transpose_b="true")
    weight = net.layer("Convert", (2, 8), [net.constant(a["bytes"])], destination_type="f32")
    weight = net.layer("Multiply", (2, 8), [weight, net.constant(a["steps"])])
    x = net.layer("MatMul", (1, 2), [net.layer("ReLU", (1, 8), [x]), weight], transpose_b="true")
    net.layer("Result", (), [x])
    return net.save(folder / "model.xml")


@sample("openvino-loop")
def loop_file(folder):
    """A loop whose body has a constant, and a constant of NF4."""
    inner, net = NetWriter(), NetWriter()
    inner.constant(np.arange(4, dtype=ml_dtypes.bfloat16))
    net.content = inner.content
    x = net.layer("Parameter", (1, 4), element_type="f32", shape="1,4")
    body = inner.net().replace("<net ", "<body ").replace("</net>", "</body>")
    x = net.layer("TensorIterator", (1, 4), [x], body)
    net.layer("Result", (), [net.layer("MatMul", (1, 2), [x, net.constant(np.arange(8).reshape(4, 2), "nf4")])])
    return net.save(folder / "model.xml")
