"""`mm1-lab dashboard`: serves MLflow's interface on this machine."""

import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS
from mm1_lab.formatting import without_secrets
from mm1_lab.orchestrate.tracking.dashboard_app import TOKEN
from mm1_lab.orchestrate.tracking.mlflow_logger import (
    ARTIFACTS,
    HEADING,
    connect,
    no_access,
    tracking_uri,
)

HOST = "127.0.0.1"
SERVER_LOG = RESULTS / "mlflow-server.log"


def show_dashboard(port: int, log: Iterator[str]) -> None:
    """Unless MLflow is a remote server, serves it on `port` until Ctrl-C, and prints its address as soon as it answers,
    and those of the sweeps' runs.

    `log` logs a sweep with each step; the server does not wait for it, since the first time takes a minute or two.
    """
    uri = tracking_uri()
    if uri.startswith("http"):
        print(*log, sep="\n")
        print(f"MLflow is at {without_secrets(uri)}")
        return
    try:
        socket.create_server((HOST, port)).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"--port {port}: {error}; choose another (mm1-lab dashboard --port 5001)") from None
    try:
        connect().search_experiments(max_results=1)  # two processes must not create a database's tables at once
    except Exception as error:  # whatever the database raises
        raise RequestError(no_access(error)) from None
    print("MLflow starts …", flush=True)
    token = secrets.token_urlsafe(16)
    address = f"http://{HOST}:{port}/?token={token}"
    with _serve(uri, port, token) as server:
        try:
            _wait_for(server, port)
            print(f"MLflow is at {address}\nEnd it with Ctrl-C. What it has, as it is logged:", flush=True)
            try:
                for line in log:
                    print(line, flush=True)
            except RequestError as error:
                print(f"mm1-lab: {error}", file=sys.stderr)
            for sweep in connect().search_experiments(filter_string=f"tags.`{HEADING}` != ''"):
                # without its last part, as MLflow's front page, it would show what MLflow has for agents
                page = f"#/experiments/{sweep.experiment_id}/runs?workflowType=machine_learning"
                print(f"Runs of {sweep.name}: {address}{page}", flush=True)
            with suppress(KeyboardInterrupt):  # as it was told to end it
                server.wait()
        finally:
            server.terminate()


def _serve(uri: str, port: int, token: str) -> subprocess.Popen[bytes]:
    """Starts MLflow's server, which answers this machine alone, and of its users who knows the token; it writes its
    messages to a file."""
    packages = Path(__file__).parents[3]
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "mm1-lab", "--no-serve-artifacts"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # uvicorn would import from the working folder, and log addresses with the token
    command += ["--uvicorn-opts", shlex.join(["--app-dir", str(packages), "--no-access-log"])]
    environment = os.environ | {
        TOKEN: token,
        "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",  # or MLflow's assistant could run commands as this user
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": uri,  # other users of the machine could read it in the command line
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": ARTIFACTS.absolute().as_uri(),
    }
    SERVER_LOG.parent.mkdir(parents=True, exist_ok=True)
    with SERVER_LOG.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Raises RequestError if the server ends before it accepts requests."""
    while server.poll() is None:
        with suppress(OSError):
            socket.create_connection((HOST, port), timeout=1).close()
            return
        time.sleep(0.2)
    raise RequestError(f"MLflow's server ended with exit code {server.returncode}; {SERVER_LOG} says why")
