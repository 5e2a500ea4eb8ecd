"""`mm1-lab dashboard`: serves MLflow's interface on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterable

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS
from mm1_lab.orchestrate.tracking.mlflow_logger import ARTIFACTS, tracking_uri, without_secrets

HOST = "127.0.0.1"
SERVER_LOG = RESULTS / "mlflow-server.log"


def show_dashboard(port: int, log: Iterable[str]) -> None:
    """Logs sweep after sweep with each step of `log`, which the first time takes a minute or two; then, unless MLflow
    is a remote server, serves it on `port` until Ctrl-C. Raises RequestError if the server ends by itself."""
    uri = tracking_uri()
    is_remote = uri.startswith("http")
    if not is_remote:
        try:
            socket.create_server((HOST, port)).close()
        except (OSError, OverflowError) as error:
            text = f"--port {port}: {error}; choose another (mm1-lab dashboard --port 5001)"
            raise RequestError(text) from None
    for line in log:
        print(line, flush=True)
    if is_remote:
        print(f"MLflow is at {without_secrets(uri)}")
        return
    print(f"MLflow is at http://{HOST}:{port} in some seconds; end it with Ctrl-C", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--no-serve-artifacts", "--workers", "1"]
    command += ["--host", HOST, "--port", str(port)]
    environment = os.environ | {
        "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",  # or MLflow's assistant could run commands as this user
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": uri,  # other users of the machine could read it in the command line
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": ARTIFACTS.absolute().as_uri(),
    }
    SERVER_LOG.parent.mkdir(parents=True, exist_ok=True)
    with SERVER_LOG.open("wb") as file:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        code = server.wait()
    finally:
        server.terminate()
    raise RequestError(f"MLflow's server ended with exit code {code}; {SERVER_LOG} says why")
