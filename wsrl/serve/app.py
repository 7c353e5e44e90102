"""The requests that `wsrl serve` answers."""

import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from wsrl import __version__
from wsrl.errors import InputError
from wsrl.page.content import model_fields, model_layers
from wsrl.serve.models import ServedIndex
from wsrl.text import bytes_text, printable

HOSTS = ["127.0.0.1", "localhost", "[::1]"]  # other names are refused: a foreign page may give this address a name
MOST_HITS = 100
BINARY = "application/octet-stream"  # no page of another site may send it without asking first
UPLOAD = {
    "requestBody": {"required": True, "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}},
}
Number = Annotated[int, Query(ge=1, le=MOST_HITS, description="hits, at most")]
By = Annotated[Literal["auto", "weights", "function"], Query(description="the vectors that are compared")]
Where = Annotated[
    Sequence[str], Query(description="a condition that hits fulfill, such as parameters>6B; may be repeated")
]
Answer = Callable[[Request], Awaitable[Response]]


class Info(BaseModel):
    """What the index holds."""

    version: int = 1
    models: int
    functions: int
    bytes: int
    encoder: str
    commits: int


class Model(BaseModel):
    """One model of the index."""

    version: int = 1
    id: str
    fields: dict[str, Any]
    layers: list[tuple[str, int]]
    assumed: list[str]
    warnings: list[str]


class Found(BaseModel):
    """The answer of a search; a hit has the keys of `wsrl search --json`, but for the query."""

    version: int = 1
    query: str
    hits: list[dict[str, Any]]


def make_app(served: ServedIndex, upload_limit: int) -> FastAPI:
    """Makes the application.

    Args:
      served: the index.
      upload_limit: bytes of a checkpoint that is sent, at most.
    """

    @asynccontextmanager
    async def following(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        follower = threading.Thread(target=served.follow, args=(stop,), daemon=True)
        follower.start()
        yield
        stop.set()
        follower.join()

    # No pages of documentation, which load scripts from elsewhere.
    app = FastAPI(title="wsrl", version=__version__, docs_url=None, redoc_url=None, lifespan=following)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)

    @app.exception_handler(InputError)
    def bad_input(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": printable(f"{Path(error.file).name}: {error.reason}; {error.fix}")}, 400)

    @app.exception_handler(RequestValidationError)
    def bad_parameters(_: Request, error: RequestValidationError) -> JSONResponse:
        lines = [f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"detail": printable("; ".join(lines))}, 422)

    @app.middleware("http")
    async def guarded(request: Request, answer: Answer) -> Response:
        response = await answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        return response

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return served.page()

    @app.get("/api/info", summary="what the index holds")
    def info() -> Info:
        return Info.model_validate(served.index.info())

    @app.get("/api/models", summary="ids of all models")
    def models() -> list[str]:
        return served.index.ids

    @app.get("/api/model", summary="one model: metadata, layers, what was assumed")
    def model(id: str) -> Model:
        index = served.index
        row = index.get(id)
        about = {"fields": model_fields(row, index.metadata(id)), "layers": list(model_layers(row))}
        return Model(id=id, assumed=list(row.assumed), warnings=list(row.warnings), **about)

    @app.get("/api/search", summary="models nearest to one of the index")
    def search(id: str, k: Number = 10, by: By = "auto", where: Where = ()) -> Found:
        return Found(query=id, hits=[hit.record() for hit in served.search(id, k, by, where)])

    @app.post("/api/search", summary="models nearest to a checkpoint that is sent", openapi_extra=UPLOAD)
    async def search_by_upload(
        request: Request, name: str, k: Number = 10, by: By = "auto", where: Where = ()
    ) -> Found:
        if request.headers.get("content-type") != BINARY:
            raise HTTPException(415, f"send the file as {BINARY}")
        with tempfile.TemporaryDirectory(prefix="wsrl-query-") as folder:
            shown = printable(Path(name).name)
            stored = "checkpoint" if shown in ("", "..") else shown[-60:]  # its suffix tells some formats
            path = Path(folder) / stored
            await _receive(request, path, upload_limit)
            hits = await run_in_threadpool(served.search_file, path, k, by, where)
        return Found(query=shown, hits=[hit.record() for hit in hits])

    return app


async def _receive(request: Request, path: Path, limit: int) -> None:
    """Writes the body of a request to a file, and stops as soon as it is too large."""
    too_large = HTTPException(
        413, f"a checkpoint of more than {bytes_text(limit)}; start the server with a greater --limit"
    )
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit:
        raise too_large
    size = 0
    with open(path, "wb") as file:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise too_large
            file.write(piece)
