"""Parts that models share, found by their signatures and told after their files were compared."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from experiments.tables.weights_index import index_weights
from wsrl.cli.main import main
from wsrl.errors import InputError
from wsrl.origins.parts import find_parts

LAYERS, WIDTH = 3, 32


def stack(seed: int, name: str, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Layers of their own scales."""
    rng = np.random.default_rng(seed)
    shape = (width, width)
    return {
        f"{name}.{i}.weight": (rng.standard_normal(shape) * rng.random((width, 1))).astype(np.float32)
        for i in range(LAYERS)
    }


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A query, a model with its encoder under another name, one with a layer of it, and one of the same shapes."""
    folder = tmp_path_factory.mktemp("parts")
    encoder = stack(0, "encoder")
    one_layer = {"middle.weight": encoder["encoder.1.weight"]}
    files = {
        "query": {**encoder, **stack(1, "decoder", 24)},
        "half": {**{f"text_{n}": t.astype(np.float16) for n, t in encoder.items()}, **stack(2, "head", 20)},
        "layer": {**stack(3, "unet", 28), **one_layer},
        "stranger": {**stack(4, "encoder"), **stack(5, "decoder", 24)},
    }
    (folder / "models").mkdir()
    for name, tensors in files.items():
        safetensors.numpy.save_file(tensors, folder / "models" / f"{name}.safetensors")
    index_weights([folder / "models"], folder / "zoo.index")
    return folder


def test_shared_parts_are_found_and_named(zoo):
    found = find_parts(zoo / "zoo.index", str(zoo / "models" / "query.safetensors"))
    half, layer = found.models
    assert [Path(own.id).stem for own in (half, layer)] == ["half", "layer"] and not found.problems
    (part,) = half.parts
    assert (part.a, part.b, part.kind, part.tensors) == ("encoder", "text_encoder", "same_weights", LAYERS)
    assert part.parameters == LAYERS * WIDTH**2 and 0.6 < half.share < 0.7
    assert [(own.a, own.b) for own in layer.parts] == [("encoder.1.weight", "middle.weight")]


def test_files_are_opened_no_more_often_than_asked(zoo):
    found = find_parts(zoo / "zoo.index", str(zoo / "models" / "query.safetensors"), most=1)
    assert len(found.models) == 1 and found.left == 2  # random layers of one shape look alike to the sieve


def test_the_command_tells_of_parts(zoo, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    query = str(zoo / "models" / "query.safetensors")
    assert main(["parts", query, "--index", str(zoo / "zoo.index"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["id"]).stem for line in lines] == ["half", "layer"]
    assert main(["parts", query, "--index", str(zoo / "zoo.index"), "--format", "human"]) == 0
    assert "2 models with a shared part" in capsys.readouterr().out


def test_a_query_that_is_not_there_is_told(zoo):
    with pytest.raises(InputError, match="is neither a checkpoint nor a model"):
        find_parts(zoo / "zoo.index", "nothing.safetensors")
