"""`mm1-lab dashboard`: serves MLflow's interface on this machine and prints the page of each sweep."""

from __future__ import annotations

import socket
import sys
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from threading import Thread

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS
from mm1_lab.orchestrate.tracking.mlflow_runs import VIEW
from mm1_lab.orchestrate.tracking.mlflow_store import connect, no_access, tracking_uri, without_secrets

ASSISTANT, NO_ASSISTANT = "/ajax-api/3.0/mlflow/assistant", "[data-assistant-ui] {display: none !important}"
"""The route of MLflow's assistant, and a CSS rule that hides its panel and button."""


def check_port(port: int) -> None:
    """Raises RequestError if MLflow cannot listen on `port`; called before minutes are spent on logging results."""
    if tracking_uri().startswith("http"):
        return
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no valid port"
            raise RequestError(f"--port {port}: {why}; choose another (mm1-lab dashboard --port 5001)") from None


def show_dashboard(port: int, log: Iterator[str]) -> None:
    """Prints the addresses of all sweeps; unless MLflow is a remote server, serves it on `port` until Ctrl-C.

    `log` logs a sweep with each step; the server does not wait for it, since the first time takes a minute.
    """
    uri = tracking_uri()
    try:
        pages()
    except RequestError:
        raise
    except Exception as error:  # whatever a tracking server or its database raises
        raise RequestError(no_access(error)) from None
    if uri.startswith("http"):
        address = without_secrets(uri, "")
        _print_pages(address, log)
        print(f"MLflow is at {address}")
    else:
        _serve(uri, port, log)


def _print_pages(address: str, log: Iterator[str]) -> None:
    """Prints the address of each sweep as soon as `log` has logged it."""
    known: set[str] = set()
    for _ in chain([""], log):
        found = pages()
        for sweep in sorted(found.keys() - known):
            print(f"{sweep}: {address}{found[sweep]}", flush=True)
        known |= found.keys()


def _print_while_serving(address: str, log: Iterator[str]) -> None:
    try:
        _print_pages(address, log)
    except RequestError as error:
        print(f"mm1-lab: {error}", file=sys.stderr)


def pages() -> dict[str, str]:
    """The page of MLflow's interface with the trials of each sweep, by variant and scale."""
    found = {}
    for one in connect().search_experiments():
        for view in sorted(tag.removeprefix(VIEW) for tag in one.tags if tag.startswith(VIEW)):
            query = f"viewStateShareKey={view}&workflowType=machine_learning"
            found[view] = f"/#/experiments/{one.experiment_id}/runs?{query}"
    return found


def _serve(uri: str, port: int, log: Iterator[str]) -> None:
    """Runs MLflow's server in this process until it is stopped; logs and prints addresses once it accepts requests.

    Its assistant is disabled: MLflow 3.17 has no option for that, its panel opens by itself in a browser on this
    machine, and its routes run commands.
    """
    print("MLflow starts …", flush=True)
    address = f"http://127.0.0.1:{port}"
    warnings.simplefilter("ignore")  # from the server's imports
    import uvicorn  # before MLflow's server, which refuses other hosts if uvicorn is already imported
    from mlflow.server import app as interface
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"MLflow is at {address}; end it with Ctrl-C. What it has, as it is logged:", flush=True)
            Thread(target=_print_while_serving, args=[address, log], daemon=True).start()

    index = (Path(interface.static_folder or "") / "index.html").read_text(encoding="utf-8")
    page = index.replace("</head>", f"<style>{NO_ASSISTANT}</style></head>")
    interface.view_functions["serve"] = lambda: page
    app.router.routes.insert(0, Mount(ASSISTANT, PlainTextResponse("left out", 404)))
    initialize_backend_stores(uri, uri, (RESULTS / "mlartifacts").absolute().as_uri())
    settings = uvicorn.Config(app, "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=1)
    Server(settings).run()
