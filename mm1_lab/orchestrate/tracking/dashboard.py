"""`mm1-lab dashboard`: serves MLflow's interface on this machine and prints the page of each sweep."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Sequence
from pathlib import Path

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS
from mm1_lab.orchestrate.tracking.mlflow_runs import VIEW
from mm1_lab.orchestrate.tracking.mlflow_store import connect, tracking_uri, without_secrets

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


def show_dashboard(port: int) -> None:
    """Prints the addresses; unless MLflow is a remote server, serves it on `port` until Ctrl-C."""
    uri = tracking_uri()
    remote = uri.startswith("http")
    address = without_secrets(uri, "") if remote else f"http://127.0.0.1:{port}"
    lines = [f"{sweep}: {address}{page}" for sweep, page in pages().items()]
    lines.append(f"MLflow is at {address}" + ("" if remote else "; end it with Ctrl-C"))
    if remote:
        print("\n".join(lines))
    else:
        _serve(uri, port, lines)


def pages() -> dict[str, str]:
    """The page of MLflow's interface with the trials of each sweep, by variant and scale."""
    found = {}
    for one in connect().search_experiments():
        for view in sorted(tag.removeprefix(VIEW) for tag in one.tags if tag.startswith(VIEW)):
            query = f"viewStateShareKey={view}&workflowType=machine_learning"
            found[view] = f"/#/experiments/{one.experiment_id}/runs?{query}"
    return found


def _serve(uri: str, port: int, lines: Sequence[str]) -> None:
    """Runs MLflow's server in this process until it is stopped; prints `lines` once it accepts requests.

    Its assistant is disabled: MLflow 3.17 has no option for that, its panel opens by itself in a browser on this
    machine, and its routes run commands.
    """
    print("MLflow starts …", flush=True)
    warnings.simplefilter("ignore")  # from the server's imports
    import uvicorn  # before MLflow's server, which refuses other hosts if uvicorn is already imported
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print("\n".join(lines), flush=True)

    index = (Path(pages.static_folder or "") / "index.html").read_text(encoding="utf-8")
    page = index.replace("</head>", f"<style>{NO_ASSISTANT}</style></head>")
    pages.view_functions["serve"] = lambda: page
    app.router.routes.insert(0, Mount(ASSISTANT, PlainTextResponse("left out", 404)))
    initialize_backend_stores(uri, uri, (RESULTS / "mlartifacts").absolute().as_uri())
    settings = uvicorn.Config(app, "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=1)
    Server(settings).run()
