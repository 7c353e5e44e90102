"""Reads Keras models: whole models and weights in HDF5 (`.h5`, `.weights.h5`) and `.keras` archives.

The layouts are those that Keras writes: `keras/src/legacy/saving/legacy_h5_format.py` and
`keras/src/saving/saving_lib.py` in https://github.com/keras-team/keras. No layer is built, so that no code of a
configuration runs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.archives import Archive, member_names, open_archive
from wsrl.readers.hdf5 import SIGNATURE, Group, open_hdf5
from wsrl.readers.json_files import LIMIT, parse_json_object
from wsrl.readers.keras_names import layer_configs, layers_by_key, weight_names
from wsrl.readers.keras_quantized import dequantized, quantized_names
from wsrl.readers.keras_shards import is_index, open_shards
from wsrl.readers.mapped import HEAD, map_file

CONFIG, WEIGHTS, VERSIONS = "config.json", "model.weights.h5", "metadata.json"  # members of a `.keras` archive
OPTIMIZER = ("optimizer", "optimizer_weights")
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # of a model's layers
TOP = "top_level_model_weights"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is HDF5, an archive with a `model.weights.h5`, or an index of such files."""
    return head.startswith(SIGNATURE) or is_index(head) or WEIGHTS in member_names(head, path)


def open_file(path: Path) -> Checkpoint:
    """Opens a Keras model or its weights.

    Tensors are called `layer/kernel`, `layer/moving_mean` and so on, by the layers' own names; the layers of a model in
    a model follow its name. Other HDF5 files keep their paths. State of the optimizer is left out. The metadata has
    `keras_config`, the model's configuration, and `keras_version` where the file has them.

    Raises:
      CheckpointError: see hdf5.open_hdf5 and archives.Archive; or a configuration is not valid JSON.
    """
    data = map_file(path)
    if data[: len(SIGNATURE)].tobytes() == SIGNATURE:
        root, config, version = open_hdf5(data, path), None, None
    elif is_index(data[:HEAD].tobytes()):
        root, config, version = open_shards(path), None, None
    else:
        archive = open_archive(path)
        root = open_hdf5(archive.read(WEIGHTS), path)
        config = _member(archive, CONFIG, path)
        version = (_member(archive, VERSIONS, path) or {}).get("keras_version")
    model = root.groups.get("model_weights", root)
    config = config or _attribute_config(root, path)
    version = version or root.attributes.get("keras_version") or model.attributes.get("keras_version")
    if "layer_names" in model.attributes or "layer_names0" in model.attributes:
        named = _legacy(model, path)
    elif "layers" in root.groups or "vars" in root.groups:
        named = _numbered(root, layer_configs(config), config)
    else:
        named = root.walk()
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in named:
        if name in tensors:
            raise CheckpointError(path, f"two tensors are called {name!r}", "save the model with unique layer names")
        tensors[name] = tensor
    tensors = dequantized(tensors, layer_configs(config))
    told = {"keras_config": config, "keras_version": version}
    left_out = (*root.left_out, *(name for name in OPTIMIZER if name in root.groups))
    return Checkpoint(str(path), tensors, {k: v for k, v in told.items() if v} | {"left_out": left_out})


def _member(archive: Archive, name: str, path: Path) -> dict[str, Any] | None:
    if name not in archive.members:
        return None
    return parse_json_object(archive.read(name, LIMIT + 1).tobytes(), path, f"its {name}")


def _attribute_config(root: Group, path: Path) -> dict[str, Any] | None:
    text = root.attributes.get("model_config")
    return parse_json_object(text.encode(), path, "its model_config") if isinstance(text, str) else None


def _legacy(model: Group, path: Path) -> Iterator[tuple[str, LazyTensor]]:
    """Weights of a file that lists its layers, and in each layer's group the paths of its weights."""
    for layer in _listed(model, "layer_names", path) + [TOP] * (TOP in model.groups):
        group = model.groups.get(layer)
        if group is None:
            raise CheckpointError(path, f"lacks the group of layer {layer!r}", "save or download it again")
        tensors = dict(group.walk())
        for weight in _listed(group, "weight_names", path):
            if weight not in tensors:
                raise CheckpointError(path, f"layer {layer!r} lacks its weight {weight!r}", "save or download it again")
            yield _legacy_name(layer, weight), tensors[weight]


def _listed(group: Group, attribute: str, path: Path) -> list[str]:
    """A list of texts; Keras splits it over attributes with numbers where it is long."""
    parts = [group.attributes[attribute]] if attribute in group.attributes else []
    while f"{attribute}{len(parts)}" in group.attributes:
        parts.append(group.attributes[f"{attribute}{len(parts)}"])
    if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in parts):
        raise CheckpointError(path, f"its attribute {attribute} is not a list of texts", "save or download it again")
    return [name for part in parts for name in part]


def _legacy_name(layer: str, weight: str) -> str:
    """`sequential/dense_4/kernel:0` of layer `dense_4` is `dense_4/kernel`."""
    *scopes, name = weight.partition(":")[0].split("/")
    if layer in scopes:
        scopes = scopes[scopes.index(layer) :]
        while scopes[1:2] == [layer]:  # as written by Keras 2 for some models in models
            scopes = scopes[1:]
    elif layer != TOP:
        scopes = [layer, *scopes]
    return "/".join([*scopes, name])


def _numbered(
    group: Group,
    configs: Mapping[str, Mapping[str, Any]],
    model: object,
    prefix: str = "",
    key: str = "",
    layer: str | None = None,
) -> Iterator[tuple[str, LazyTensor]]:
    """Weights of a file with a group for each layer: in it `vars` with numbered weights, and groups of inner layers.

    A layer's own name is an attribute of its `vars`; the group's key tells its class, or where its parent keeps it.
    Where that attribute is not there, as in files of the first versions of Keras 3, the order of the model's layers
    tells the name.
    """
    if own := group.groups.get("vars"):
        numbers = sorted(own.tensors, key=lambda number: (len(number), number))
        shapes = [own.tensors[number].shape for number in numbers]
        dtypes = [own.tensors[number].dtype for number in numbers]
        config = configs.get(str(own.attributes.get("name", layer)))
        stem = "embeddings" if "embedding" in key else "kernel"
        names = quantized_names(stem, shapes, dtypes) or weight_names(key, shapes, config)
        yield from ((prefix + name, own.tensors[number]) for name, number in zip(names, numbers, strict=True) if name)
    inner = {k: g for k, g in group.groups.items() if k != "vars" and (prefix or k not in OPTIMIZER)}
    own_names = {k: g.groups["vars"].attributes.get("name") for k, g in inner.items() if "vars" in g.groups}
    times = Counter(own_names.values())
    ordered = layers_by_key(model) if key in CONTAINERS and not any(own_names.values()) else {}
    for k, g in inner.items():
        name, config = ordered.get(k, (own_names.get(k), None))
        told = isinstance(name, str) and (k in ordered or times[name] == 1)
        below = model if k in CONTAINERS else config
        yield from _numbered(
            g,
            configs,
            below,
            prefix if k in CONTAINERS else f"{prefix}{name if told else k}/",
            k,
            name if told else None,
        )
