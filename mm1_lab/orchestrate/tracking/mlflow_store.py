"""The MLflow tracking store: the server that MLFLOW_TRACKING_URI names, or a database in results/local."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mm1_lab.files import RESULTS, locked, replace
from mm1_lab.formatting import first_line

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # gives up on an unreachable server after seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
DATABASE = RESULTS / "mlflow.db"
ARTIFACTS = RESULTS / "mlartifacts"
"""Files of the runs in the local database."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def named_store() -> str | None:
    """MLFLOW_TRACKING_URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database in results/local."""
    return named_store() or f"sqlite:///{DATABASE.absolute()}"


def without_secrets(text: str, instead: str = "…@") -> str:
    """The text without user names and passwords in URLs and without MLflow's credentials."""
    for name in SECRETS:
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, "…")
    text = re.sub(r"([?&](?:password|passwd|pwd|token)=)[^&\s]+", r"\1…", text)
    return re.sub(r"://[^/\s]+@", f"://{instead}", text)


def no_access(error: Exception) -> str:
    """What to tell a user about an exception of MLflow, of a server or of its database."""
    return without_secrets(f"MLflow at {tracking_uri()} cannot be written ({first_line(error)})")


def connect() -> Any:
    """A quiet MLflow client. MLflow's exceptions are passed on."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # exceptions are reported in a line of our own
    if not named_store():
        with locked(RESULTS / ".mlflow.lock"):
            _make_database(DATABASE.absolute())
    return mlflow.MlflowClient(tracking_uri=tracking_uri())


def _make_database(path: Path) -> None:
    """Creates the database, unless it exists. A kill meanwhile would leave one with only some of its tables."""
    from mlflow import MlflowClient

    if path.exists():
        return
    for left in path.parent.glob(f".{path.name}.*"):  # by a kill
        left.unlink()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
    replace(partial, path)
