import math

import numpy as np
import pytest

from experiments.benchmarks.streaming import (
    COLUMN_NAMES,
    bert,
    classifier,
    decoder,
    measure,
    one_pass,
    write_model,
    write_random,
)
from wsrl.readers import read_checkpoint


def test_models_are_as_large_as_they_are_called():
    def parameters(shapes):
        return sum(map(math.prod, shapes.values()))

    assert 109e6 < parameters(bert()) < 111e6
    assert 1.55e9 < parameters(decoder()) < 1.57e9
    assert len({tuple(classifier(kind).items()) for kind in range(12)}) == 12


def test_random_weights_are_checkpoints(tmp_path):
    for dtype in (np.float32, np.float16):
        path = tmp_path / f"{np.dtype(dtype).name}.safetensors"
        write_random(path, bert(1, 64, 100), dtype, 0)
        tensors = read_checkpoint(path).tensors
        assert {n: t.shape for n, t in tensors.items()} == bert(1, 64, 100)
        assert tensors["encoder.layer.0.output.LayerNorm.weight"].min() > 0


def test_a_line_of_the_table(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for i, path in enumerate(paths):
        write_random(path, classifier(i), np.float32, i)
    figures = measure([str(path) for path in paths])
    assert figures.models == 4 and figures.size == sum(path.stat().st_size for path in paths)
    assert figures.seconds > 0 and figures.reading > 0 and figures.peak > 1
    assert len(figures.cells()) == len(COLUMN_NAMES)


def test_a_pass_over_all_tensors_is_timed(tmp_path):
    write_random(tmp_path / "m.safetensors", classifier(0), np.float32, 0)
    assert one_pass([str(tmp_path / "m.safetensors")]) > 0


def test_unknown_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there are bert-base"):
        write_model("gpt", tmp_path)
