"""As much of the hub as the tests need, on loopback: lists of models, what they are, their files, and their bytes."""

import hashlib
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs

SETTINGS = {
    **{"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
}


def environment(endpoint: str, cache: Path, **variables: str) -> dict[str, str]:
    """Variables of a process that uses the hub here: huggingface_hub reads its settings when it is imported."""
    own = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return own | SETTINGS | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache)} | variables


def commit(folder: Path) -> str:
    """The commit of a model: another one when a file changes."""
    files = [path.name.encode() + path.read_bytes() for path in sorted(folder.iterdir())]
    return hashlib.sha1(b"".join(files)).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves folders as models."""

    models: dict[str, Path]
    ranges = True  # whether parts of files are sent
    requested: list[str]
    sent: dict[str, int]  # bytes of files by path

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def answer(self, with_body):
        path, _, query = self.path.partition("?")
        self.requested.append(path)
        if path == "/api/models":
            self.send(200, json.dumps(self.listed(parse_qs(query))).encode(), {}, with_body)
            return
        match = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)(.*)", path)
        model, rest = match[1], match[2]
        if "gated" in path:
            self.send(401, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
        elif model not in self.models:
            self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif "nothing" in path:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
        elif "/tree/" in rest:
            self.send(200, json.dumps([self.entry(path) for path in self.files(model)]).encode(), {}, with_body)
        elif path.startswith("/api/"):
            self.send(200, json.dumps(self.info(model, "blobs" in query)).encode(), {}, with_body)
        else:
            self.file(self.models[model] / rest.rpartition("/")[2], commit(self.models[model]), with_body)

    def files(self, model):
        return sorted(self.models[model].iterdir())

    def listed(self, query):
        author, search = query.get("author", [""])[0], query.get("search", [""])[0]
        names = [name for name in self.models if name.startswith(f"{author}/" if author else "") and search in name]
        return [{"id": name, "_id": name, "sha": commit(self.models[name])} for name in names]

    def info(self, model, blobs):
        files = [{"rfilename": path.name} | (self.blob(path) if blobs else {}) for path in self.files(model)]
        card = {"license": "mit"}
        return {"id": model, "sha": commit(self.models[model]), "siblings": files, "cardData": card}

    def blob(self, path):
        entry = self.entry(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        large = {"lfs": {"sha256": digest, "size": entry["size"], "pointerSize": 134}}
        return {"size": entry["size"], "blobId": entry["oid"]} | (large if path.suffix == ".safetensors" else {})

    def entry(self, path):
        content = path.read_bytes()
        return {"type": "file", "path": path.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, path, revision, with_body):
        body = path.read_bytes()
        headers = {"ETag": f'"{self.entry(path)["oid"]}"', "X-Repo-Commit": revision}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.ranges:
            start, stop = int(asked[1]), int(asked[2]) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            body = body[start:stop]
        self.send(206 if asked and self.ranges else 200, body, headers, with_body)
        if with_body:
            name = self.path.partition("?")[0]
            self.sent[name] = self.sent.get(name, 0) + len(body)

    def send(self, status, body, headers, with_body):
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            try:
                self.wfile.write(body)
            except ConnectionError:  # whoever wanted a part has seen that all is coming
                self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving(models: dict[str, Path], ranges: bool = True) -> Iterator[str]:
    """Serves models and yields the address."""
    Hub.models, Hub.ranges, Hub.requested, Hub.sent = models, ranges, [], {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
