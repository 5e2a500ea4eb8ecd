"""`mm1-lab dashboard`: MLflow's interface on this machine, and where in it each sweep is."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import NoReturn
from urllib.request import urlopen

from mm1_lab.config import RequestError
from mm1_lab.orchestrate.mlflow_runs import VIEW
from mm1_lab.orchestrate.mlflow_store import connect, tracking_uri, without_secrets


def check_port(port: int) -> None:
    """Raises RequestError where MLflow could not listen on `port`; before minutes are spent on entering results."""
    if tracking_uri().startswith("http"):
        return
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no port"
            raise RequestError(f"--port {port}: {why}; choose another (mm1-lab dashboard --port 5001)") from None


def show_dashboard(port: int) -> None:
    """Tells the addresses; where MLflow is no server elsewhere, becomes one on `port`."""
    uri = tracking_uri()
    remote = uri.startswith("http")
    address = uri if remote else f"http://127.0.0.1:{port}"
    told = [f"{sweep}: {address}{page}" for sweep, page in pages().items()]
    told.append(f"MLflow is at {without_secrets(address)}" + ("" if remote else "; end it with Ctrl-C"))
    if not remote:
        _serve(uri, port, told)
    print("\n".join(told))


def pages() -> dict[str, str]:
    """By sweep, variant and scale, the page of MLflow's interface that shows its trials."""
    found = {}
    for one in connect().search_experiments():
        for view in sorted(tag.removeprefix(VIEW) for tag in one.tags if tag.startswith(VIEW)):
            query = f"viewStateShareKey={view}&workflowType=machine_learning"
            found[view] = f"/#/experiments/{one.experiment_id}/runs?{query}"
    return found


def _serve(uri: str, port: int, told: Sequence[str]) -> NoReturn:
    """Becomes MLflow's server, so that whatever ends one ends the other; `told` is printed once it answers."""
    print("MLflow starts …", flush=True)
    if os.fork() == 0:
        _tell_when_it_answers(f"http://127.0.0.1:{port}/health", told)
        os._exit(0)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # and not an argument, which everyone on the machine can read
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [*command, "--workers", "1", "--uvicorn-opts", "--log-level warning"])


def _tell_when_it_answers(address: str, lines: Sequence[str]) -> None:
    for _ in range(600):  # minutes, on a busy machine
        try:
            with urlopen(address, timeout=5):
                print("\n".join(lines), flush=True)
                return
        except OSError:
            time.sleep(0.3)
