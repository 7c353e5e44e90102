import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn
from fake_encoder import FakeEncoder, write_model
from test_map import rendered, small_index

from wsrl.cli.main import main
from wsrl.search.index import Index
from wsrl.serve.app import make_app
from wsrl.serve.models import ServedIndex

LIMIT = 100_000  # bytes
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    small_index(folder)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with served_in_a_thread(folder) as address:
        yield address


@contextmanager
def served_in_a_thread(folder: Path) -> Iterator[str]:
    """Serves the index in a folder that `small_index` has made; yields the address."""
    app = make_app(ServedIndex(folder / "zoo.index", FakeEncoder(), "weights"), LIMIT)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    socket.close()


def ask(address: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None, **query: object):
    """Status and JSON of an answer."""
    request = urllib.request.Request(f"{address}{path}?{urlencode(query, doseq=True)}", data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error) if error.headers["Content-Type"] == "application/json" else error.read()


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_api_answers_what_the_index_holds(address, folder):
    index = Index.open(folder / "zoo.index")
    assert ask(address, "/api/models") == (200, index.ids)
    assert ask(address, "/api/info")[1]["models"] == 8
    status, model = ask(address, "/api/model", id=index.ids[1])
    assert status == 200 and model["fields"]["task"] == "digits" and model["assumed"] == ["activation: relu"]
    status, found = ask(address, "/api/search", id=index.ids[1], k=3, by="weights")
    assert status == 200 and [hit["id"] for hit in found["hits"]] == [
        hit.id for hit in index.search(index.ids[1], 3, "weights")
    ]
    assert found["hits"] == [hit.record() for hit in index.search(index.ids[1], 3, "weights")]
    described = ask(address, "/openapi.json")[1]["paths"]
    assert set(described) == {"/api/info", "/api/models", "/api/model", "/api/search"}


def test_a_file_that_is_sent_is_searched_for(address, folder, tmp_path):
    write_model(tmp_path / "new.safetensors", seed=99)
    content = (tmp_path / "new.safetensors").read_bytes()
    expected = Index.open(folder / "zoo.index", FakeEncoder()).search(tmp_path / "new.safetensors", 4)
    status, found = ask(address, "/api/search", content, BINARY, name="../../new.safetensors", k=4)
    assert status == 200 and found["query"] == "new.safetensors"
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]


@pytest.mark.parametrize("name", ["", "..", "a\0b", "\U0001f600" * 200, "x\n" * 300])
def test_any_name_can_be_sent(address, tmp_path, name):
    write_model(tmp_path / "new.safetensors", seed=99)
    content = (tmp_path / "new.safetensors").read_bytes()
    assert ask(address, "/api/search", content, BINARY, name=name, k=1)[0] == 200


def test_wrong_parameters_are_told_in_a_line(address):
    status, body = ask(address, "/api/search", id="a", k="many", by="color")
    assert status == 422 and body["detail"].startswith("k: ") and "; by: " in body["detail"]


@pytest.mark.parametrize(
    ("data", "headers", "status", "reason"),
    [
        (b"no model", BINARY, 400, "x.pt: is the text 'no model', not a model"),
        (b"x" * (LIMIT + 1), BINARY, 413, "a checkpoint of more than 100.0 kB"),
        (b"x", {"Content-Type": "text/plain"}, 415, "send the file as application/octet-stream"),
    ],
)
def test_files_that_cannot_be_used_are_refused(address, data, headers, status, reason):
    found, body = ask(address, "/api/search", data, headers, name="x.pt")
    assert found == status and body["detail"].startswith(reason)


def test_names_of_files_on_this_machine_are_no_ids(address, tmp_path):
    write_model(tmp_path / "secret.safetensors", seed=1)
    status, body = ask(address, "/api/search", id=str(tmp_path / "secret.safetensors"))
    assert status == 400 and "is no model of the index" in body["detail"]


def test_requests_by_another_name_are_refused(address):
    assert ask(address, "/api/models", headers={"Host": "models.example"})[0] == 400


def test_many_requests_at_once_and_a_writer_beside_them(address, folder, tmp_path):
    write_model(tmp_path / "q.safetensors", seed=50)
    content = (tmp_path / "q.safetensors").read_bytes()
    ids = Index.open(folder / "zoo.index").ids

    def request(number: int) -> int:
        if number % 3 == 0:
            return ask(address, "/api/search", content, BINARY, name="q.safetensors")[0]
        return ask(address, "/api/search", id=ids[number % len(ids)])[0]

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(request, range(60))
        Index.open(folder / "zoo.index").annotate(ids[0], {"note": "written meanwhile"})
        assert set(answers) == {200}
    wait_until(lambda: ask(address, "/api/model", id=ids[0])[1]["fields"].get("note") == "written meanwhile")


def test_an_index_that_is_away_for_a_moment_still_answers(address, folder):
    manifest = folder / "zoo.index" / "manifest.json"
    manifest.rename(folder / "away.json")
    try:
        assert ask(address, "/api/models", k=1)[0] == 200
    finally:
        (folder / "away.json").rename(manifest)


def test_a_state_that_cannot_be_opened_is_tried_again(tmp_path, caplog):
    small_index(tmp_path)
    folder = tmp_path / "zoo.index"
    served, stop = ServedIndex(folder, FakeEncoder(), "weights"), threading.Event()
    before, page = served.index.ids, served.page()
    Index.open(folder).remove(before[:1])
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_text("{}")
    follower = threading.Thread(target=served.follow, args=(stop,))
    follower.start()
    try:
        wait_until(lambda: caplog.records)
        assert served.index.ids == before and served.page() == page
        assert [hit.id for hit in served.search(before[0], 1, "weights")] == before[:1]
        (folder / "manifest.json").write_bytes(content)
        wait_until(lambda: served.index.ids == before[1:])
    finally:
        stop.set()
        follower.join()
    assert "manifest.json" in caplog.text and len(caplog.records) == 1  # told once
    assert len(served.page()) < len(page)


def test_searches_do_not_wait_for_a_file_that_is_embedded(folder, tmp_path, monkeypatch):
    write_model(tmp_path / "new.safetensors", seed=99)
    served = ServedIndex(folder / "zoo.index", encoder := FakeEncoder(), "weights")
    embedding, go_on, embed = threading.Event(), threading.Event(), encoder.embed

    def slow(*given, **named):
        embedding.set()
        assert go_on.wait(60)
        return embed(*given, **named)

    monkeypatch.setattr(encoder, "embed", slow)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(served.search_file, tmp_path / "new.safetensors", 3, "auto")
        assert embedding.wait(60)
        assert len(served.search(served.index.ids[0], 3, "auto")) == 3 and not sent.done()
        go_on.set()
        assert len(sent.result(60)) == 3


def test_conditions(address, folder):
    index = Index.open(folder / "zoo.index")
    (one, *_), where = index.ids, [f"id={index.ids[2]}", "parameters>1"]
    status, found = ask(address, "/api/search", id=one, where=where)
    assert status == 200 and [hit["id"] for hit in found["hits"]] == [index.ids[2]]
    status, body = ask(address, "/api/search", id=one, where="color=red")
    assert status == 400 and body["detail"].startswith("color: is no key of this index")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_served_page_asks_for_neighbors(address, folder):
    model = Index.open(folder / "zoo.index").ids[0]
    shown = rendered(f"{address}/#{urlencode({'model': model})}")
    (neighbors,) = re.findall(r'<ol id="neighbors">(.*?)</ol>', shown, re.DOTALL)
    assert neighbors.count("<li>") == 7
    assert not re.search(r'<label id="ask" hidden', shown)


def test_the_command_serves_until_it_is_interrupted(folder):
    command = [sys.executable, "-m", "wsrl", "serve", "--index", str(folder / "zoo.index"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        deadline = time.monotonic() + 60
        while True:
            try:
                assert ask(address, "/api/info")[1]["models"] == 8
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None and process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("flags", [["--port", "70000"], ["--limit", "0"]])
def test_wrong_flags_are_refused(folder, flags, capsys):
    assert main(["serve", "--index", str(folder / "zoo.index"), *flags]) == 1
    assert capsys.readouterr().err.startswith(f"error: {flags[0]}: is ")
