import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from fake_encoder import FakeEncoder, write_model

from wsrl.cli.main import main
from wsrl.errors import InputError
from wsrl.page.content import page_content
from wsrl.page.positions import positions
from wsrl.page.write import page_html
from wsrl.search.index import Index

HOSTILE = "</script><script>alert(1)</script>"


def small_index(folder: Path, count: int = 8) -> Index:
    """An index of checkpoints of which every second has a function, with notes about the first two."""
    for seed in range(count):
        write_model(folder / "models" / f"m{seed}.safetensors", seed, function=seed % 2 == 0)
    index = Index.build(FakeEncoder(), folder / "models", folder / "zoo.index")
    index.annotate(index.ids[0], {"task": HOSTILE})
    index.annotate(index.ids[1], {"task": "digits"})
    return index


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    return small_index(tmp_path_factory.mktemp("map"))


def content_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_page_holds_what_a_search_finds(index):
    content = page_content(index)
    assert content["columns"] == {"architecture": "text", "parameters": "number", "predicted accuracy": "number"} | {
        "task": "text"
    }
    for model in content["models"]:
        hits = [hit for hit in index.search(model["id"], 8, "weights") if hit.id != model["id"]]
        assert [own["id"] for own in model["neighbors"]] == [hit.id for hit in hits]
        assert [own["score"] for own in model["neighbors"]] == pytest.approx([hit.score for hit in hits], abs=1e-4)
        assert 0 <= model["x"] <= 1 and 0 <= model["y"] <= 1
        assert [name for name, _ in content["layers"][model["layers"]]] == list(index.get(model["id"]).tensors)


def test_a_page_by_function_leaves_out_models_without_one(tmp_path):
    index = small_index(tmp_path, 12)
    assert [model["id"] for model in page_content(index, "function")["models"]] == index.ids[::2]


def test_texts_cannot_leave_the_data_of_the_page(index):
    page = page_html(page_content(index))
    assert HOSTILE not in page and page.count("<script") == 2
    assert content_of(page)["models"][0]["fields"]["task"] == HOSTILE
    assert not re.findall(r"(?:src|href)\s*=", page), "the page loads something"


def test_few_models_have_no_map(tmp_path):
    with pytest.raises(InputError, match="fewer than five different models by weights"):
        page_content(small_index(tmp_path, 4))


def test_models_outside_the_sample_lie_among_their_neighbors():
    rng = np.random.default_rng(0)
    centers = np.eye(16)[:3]
    vectors = np.repeat(centers, 30, axis=0) + 0.02 * rng.normal(size=(90, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    places = positions(vectors, sample=45)
    of = np.repeat(np.arange(3), 30)
    middle = np.stack([places[of == i].mean(axis=0) for i in range(3)])
    nearest = np.linalg.norm(places[:, None] - middle[None], axis=-1).argmin(axis=1)
    assert (nearest == of).all()


def test_the_command_writes_the_page_and_refuses_another_name(index, tmp_path, capsys):
    out = tmp_path / "map.html"
    assert main(["map", "--index", str(index.directory), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 8 models by weights, ")
    assert len(content_of(out.read_text())["models"]) == 8
    assert main(["map", "--index", str(index.directory), "--out", str(tmp_path / "map.txt")]) == 1
    assert not (tmp_path / "map.txt").exists()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_page_shows_the_model_of_its_address(index, tmp_path):
    page = tmp_path / "map.html"
    page.write_text(page_html(page_content(index)))
    address = f"{page.as_uri()}#{urlencode({'model': index.ids[0], 'find': 'digits'})}"
    shown = rendered(address)
    assert re.search(r'<h2 id="found-title">1 found</h2>', shown)
    (neighbors,) = re.findall(r'<ol id="neighbors">(.*?)</ol>', shown, re.DOTALL)
    assert neighbors.count("<li>") == 7
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in shown.partition('id="model"')[2]


def rendered(address: str) -> str:
    """The document after its script has run."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    return subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True).stdout
