"""`mm1-lab dashboard`: serves MLflow's interface on this machine."""

import json
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
from typing import Any

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS
from mm1_lab.formatting import without_secrets
from mm1_lab.orchestrate.tracking.dashboard_app import TOKEN
from mm1_lab.orchestrate.tracking.mlflow_logger import (
    ARTIFACTS,
    HEADING,
    MOST_RUNS,
    SUPERSEDED,
    connect,
    no_access,
    tracking_uri,
)

HOST = "127.0.0.1"
SERVER_LOG = RESULTS / "mlflow-server.log"
VIEW = "mm1-arms"
"""The name in addresses of the view of a sweep's runs."""
LONGEST_VIEW = 5000
"""Characters: MLflow's databases keep no more of an experiment's tag."""


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
        with socket.create_server((HOST, port)) as free:
            port = free.getsockname()[1]  # 0 is any that is free
    except (OSError, OverflowError) as error:
        raise RequestError(f"--port {port}: {error}; choose another by --port") from None
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
            client = connect()
            for sweep in client.search_experiments(filter_string=f"tags.`{HEADING}` != ''"):
                _save_view(client, sweep.experiment_id)
                # without `workflowType`, as MLflow's front page, it would show what MLflow has for agents
                runs = f"#/experiments/{sweep.experiment_id}/runs?workflowType=machine_learning"
                print(f"Runs of {sweep.name}: {address}{runs}&viewStateShareKey={VIEW}", flush=True)
            with suppress(KeyboardInterrupt):  # as it was told to end it
                server.wait()
        finally:
            server.terminate()


def _save_view(client: Any, experiment: str) -> None:
    """Saves the view of a sweep's runs that its address opens: arms with their means over seeds, the best first.

    It is a part of what MLflow saves when one shares a view; its page has defaults for the rest.
    """
    from mlflow import MlflowException

    runs = client.search_runs([experiment], max_results=MOST_RUNS)
    means = sorted({name for run in runs for name in run.data.metrics if "/" not in name})
    means = means or ["average", "train/loss"]  # all that is known of scores to come
    keys = [{"mode": "param", "groupByData": "arm"}]
    # whatever else parts runs whose mean would say nothing
    if len({run.data.params.get("scale") for run in runs}) > 1:
        keys.append({"mode": "param", "groupByData": "scale"})
    for tag in ("mm1.variant", "mm1.results", SUPERSEDED):
        if len({run.data.tags.get(tag) for run in runs}) > 1:
            keys.append({"mode": "tag", "groupByData": tag})
    view = {
        "selectedColumns": [f"metrics.`{name}`" for name in means],
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
        "groupsExpanded": {f"param.arm.{run.data.params.get('arm')}": False for run in runs},
    }
    if "average" in means:
        view |= {"orderByKey": "metrics.`average`"}
    text = json.dumps(view)
    if len(text) > LONGEST_VIEW:
        text = json.dumps(view | {"groupsExpanded": {}})
    with suppress(MlflowException):  # of a database that may not be written, or a text that is still too long
        client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{VIEW}", text)


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
