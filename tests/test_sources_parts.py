import pytest

from experiments.proofs.fuzz import SAMPLES
from wsrl.search.file_identity import file_stat, whole_digest
from wsrl.search.sources import find_sources

SPLIT = ("tensorflow", "tensorflow-saved_model", "tensorflow_js", "openvino", "coreml", "keras-shards")


@pytest.mark.parametrize("name", SPLIT)
def test_a_model_of_several_files_is_one_source(tmp_path, name):
    (home := tmp_path / "zoo").mkdir()
    path = SAMPLES[name](home)
    SAMPLES["npz"](tmp_path)
    sources, problems, _ = find_sources(tmp_path)
    assert len(sources) == 2 and not problems
    first = file_stat(str(path))
    data = max((file for file in home.rglob("*") if file.is_file() and file != path), key=lambda f: f.stat().st_size)
    digest = whole_digest(str(path))
    data.write_bytes(data.read_bytes() + b"x")
    assert file_stat(str(path)) != first
    assert digest is None or whole_digest(str(path)) != digest


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow_graph", "openvino"])
def test_other_models_in_the_folder_do_not_belong_to_one(tmp_path, name):
    path = SAMPLES[name](tmp_path)
    first = file_stat(str(path))
    SAMPLES["npz"](tmp_path)
    assert file_stat(str(path)) == first
