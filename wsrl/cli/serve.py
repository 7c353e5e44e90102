"""`wsrl serve --index DIR`: serves the map of an index, search by upload and a JSON API on this machine alone."""

import argparse
from contextlib import suppress

from wsrl.cli.names import add_encoder, add_index
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.text import printable

HOST = "127.0.0.1"  # anyone who reaches another address could send files

EXAMPLES = ("wsrl serve --index zoo.index", "wsrl serve --index zoo.index --port 0 --limit 200")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser)
    parser.add_argument("--port", metavar="N", type=int, default=8765, help="0: any that is free (default 8765)")
    parser.add_argument(
        "--by", choices=("weights", "function"), default="weights", help="the vectors that the map rests on"
    )
    parser.add_argument(
        "--limit", metavar="MB", type=float, default=1000.0, help="size of a file that is sent, at most (default 1000)"
    )
    add_encoder(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until it is interrupted; returns the exit status.

    Raises:
      InputError: the index cannot be used, the port is taken, or the extra is not installed.
    """
    if not 0 <= args.port < 2**16:
        raise InputError("--port", f"is {args.port}", "give a number from 0 to 65535")
    if not args.limit > 0:
        raise InputError("--limit", f"is {args.limit}", "give a number of megabytes above 0")
    uvicorn = require("uvicorn", "serve")
    require("fastapi", "serve")
    from wsrl.encoder.checkpoint_encoder import load_encoder
    from wsrl.serve.app import make_app
    from wsrl.serve.models import ServedIndex

    encoder = load_encoder(args.encoder) if args.encoder is not None else None
    served = ServedIndex(args.index, encoder, args.by)
    served.page()  # so that it is there when it is asked for, and what it lacks is told now
    app = make_app(served, int(args.limit * 1e6))
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=args.port, log_level="warning"))
    try:
        socket = server.config.bind_socket()
    except SystemExit as error:  # uvicorn logs the reason and leaves the process
        raise InputError(
            "--port", f"{args.port} cannot be used", "give another one, or 0 for any that is free"
        ) from error
    print(printable(f"{args.index}: http://{HOST}:{socket.getsockname()[1]}/ until you press Ctrl+C"), flush=True)
    with suppress(KeyboardInterrupt):  # how one ends it
        server.run(sockets=[socket])
    return 0
