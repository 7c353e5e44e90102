"""Reads what TensorFlow saves, without TensorFlow: checkpoints (`NAME.index`) and the variables of a SavedModel.

The layouts: https://www.tensorflow.org/guide/checkpoint and https://www.tensorflow.org/guide/saved_model. The graph of
objects among the entries (`tensorflow/core/protobuf/trackable_object_graph.proto` in
https://github.com/tensorflow/tensorflow) tells the names of variables.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers import tensorflow_graph
from wsrl.readers.huggingface import weight_files
from wsrl.readers.protobuf import Kind, WireError, read
from wsrl.readers.sstable import FOOTER, MAGIC
from wsrl.readers.tensor_bundle import MEND, Bundle
from wsrl.readers.tensorflow_saved_model import saved_graph

SAVED_MODEL, VARIABLES = "saved_model.pb", "variables/variables.index"
DATA = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
LATEST = re.compile(rb'^model_checkpoint_path: "([^"\\]+)"$', re.MULTILINE)  # in the file `checkpoint`
FEW = 16  # floating-point constants that are settings rather than weights
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
GRAPH, NODE = {1: ("nodes", Kind.MESSAGE)}, {2: ("attributes", Kind.MESSAGE)}
ATTRIBUTE = {2: ("name", Kind.TEXT), 3: ("key", Kind.TEXT)}
# Keys of what belongs to training. Keras 3 keeps the variables of the model below its optimizer, too.
TRAINING = re.compile(
    r"(.*/)?(\.OPTIMIZER_SLOT|_?optimizer\w*/(?!_trainable_variables/)|keras_api/metrics|_?metrics|save_counter)(/|$|\w)"
)


def matches(head: bytes, path: Path) -> bool:
    """Whether the path is a SavedModel, its folder, a checkpoint's index or data, or a folder of checkpoints."""
    if not head:
        return path.is_dir() and not weight_files(path) and _index_in(path) is not None
    if path.suffix == ".index" and path.stat().st_size >= FOOTER:
        with open(path, "rb") as file:
            file.seek(-len(MAGIC), 2)
            return file.read() == MAGIC
    index = DATA.fullmatch(path.name)
    return (index is not None and path.with_name(f"{index[1]}.index").is_file()) or is_saved_model(head, path)


def is_saved_model(head: bytes, path: Path) -> bool:
    """Whether a file is the description of a SavedModel: a version, then the graphs."""
    return path.name == SAVED_MODEL and head[:2] == b"\x08\x01" and head[2:3] in (b"\x12", b"")


def open_file(path: Path) -> Checkpoint:
    """Opens a checkpoint; of a folder with several, the newest.

    Tensors are called as their variables, `dense/kernel`; state of optimizers and metrics is left out.

    Raises:
      CheckpointError: a file is missing or damaged; a SavedModel has no variables.
    """
    index = _index(path)
    if index.name == SAVED_MODEL:
        return _constants(index)
    bundle = Bundle(index)
    names = _variable_names(bundle)
    tensors, tied, left_out = {}, {}, list(bundle.left_out)
    variables: dict[str, str] = {}  # key -> name
    seen: dict[object, str] = {}
    for key in _in_order(bundle, names):
        tensor = bundle.tensors[key]
        plain = key.removesuffix(VALUE)
        if TRAINING.match(plain) or _is_slot(key, bundle):
            left_out.append(plain)
            continue
        name = names.get(key, plain)
        same = (names.get(key), tensor.shape, bundle.checksums.get(key))
        if None not in same and same in seen:  # exported models list their variables twice
            tied[plain] = variables[key] = seen[same]
            continue
        seen[same] = variables[key] = name = name if name not in tensors else plain
        if name in tensors:
            raise CheckpointError(index, f"two variables are called {name!r}", MEND)
        tensors[name] = tensor
    told: dict[str, object] = {"left_out": tuple(left_out), "tied": tied, "framework": "tensorflow"}
    description = index.parent.parent / SAVED_MODEL
    if index.match(f"*/{VARIABLES}") and description.is_file():
        if not tensors:
            return _constants(description)
        graph = saved_graph(description, variables, {name: tensor.shape for name, tensor in tensors.items()})
        told |= {"graph": graph} if graph is not None else {}
    return Checkpoint(str(path), tensors, told)


def _index(path: Path) -> Path:
    if path.is_dir():
        index = _index_in(path)
        path = path if index is None else index
    elif match := DATA.fullmatch(path.name):
        path = path.with_name(f"{match[1]}.index")
    variables = path.parent / VARIABLES
    return variables if path.name == SAVED_MODEL and variables.is_file() else path


def _constants(description: Path) -> Checkpoint:
    """Weights that are constants in the graph of a SavedModel, which has no variables."""
    checkpoint = tensorflow_graph.open_saved_model(description)
    sizes = [tensor.size for tensor in checkpoint.tensors.values() if "float" in str(tensor.dtype)]
    if sum(sizes) <= FEW:
        fix = "copy its folder `variables` beside it, or give the model before it was exported"
        raise CheckpointError(description, "is a TensorFlow SavedModel without variables", fix)
    return checkpoint


def _index_in(folder: Path) -> Path | None:
    """The file that stands for a folder: of a SavedModel its description or variables, else the newest checkpoint."""
    if (folder / SAVED_MODEL).is_file():
        return folder / VARIABLES if (folder / VARIABLES).is_file() else folder / SAVED_MODEL
    if (told := folder / "checkpoint").is_file() and told.stat().st_size < 1 << 16:
        match = LATEST.search(told.read_bytes())
        name = PurePosixPath(str(match[1], "utf-8", "replace")).name if match else ""
        if name and "\0" not in name and (folder / f"{name}.index").is_file():
            return folder / f"{name}.index"
    found = [file for file in folder.glob("*.index") if file.with_suffix("").name]
    found = [file for file in found if any(folder.glob(f"{_escaped(file.stem)}.data-?????-of-?????"))]
    return max(found, key=lambda file: (file.stat().st_mtime, file.name), default=None)


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _variable_names(bundle: Bundle) -> dict[str, str]:
    """Key -> name of the variable, where the graph of objects tells one; several variables may be called alike."""
    result: dict[str, str] = {}
    try:
        graph = read(memoryview(bundle.texts.get(OBJECTS, b"")), GRAPH, bundle.budget)
        for node in graph["nodes"]:
            for message in read(node, NODE, bundle.budget)["attributes"]:
                told = read(message, ATTRIBUTE, bundle.budget)
                name = "".join(told["name"][-1:]).removesuffix(":0")
                if name and told["key"]:
                    result[told["key"][-1]] = name
    except (WireError, UnicodeDecodeError) as error:
        raise CheckpointError(bundle.index, f"its graph of objects is damaged ({error})", MEND) from error
    contents: dict[str, set] = {}
    for key, name in result.items():
        contents.setdefault(name, set()).add(bundle.checksums.get(key, key))
    return {key: name for key, name in result.items() if len(contents[name]) == 1 and "/" in name}


def _in_order(bundle: Bundle, names: Mapping[str, str]) -> list[str]:
    """Keys in the order in which the graph of objects has them, which is most often that of the layers."""
    place = {key: number for number, key in enumerate(names)}
    return sorted(bundle.tensors, key=lambda key: place.get(key, len(place)))


def _is_slot(key: str, bundle: Bundle) -> bool:
    """Whether a tensor of an old checkpoint, say `w/Adam`, belongs to another one and has its shape."""
    owner = key.rpartition("/")[0]
    if VALUE in key or owner not in bundle.tensors:
        return False
    return bundle.tensors[owner].shape == bundle.tensors[key].shape
