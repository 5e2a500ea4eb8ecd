"""The MLflow tracking store: the server that MLFLOW_TRACKING_URI names, or a database in results/local."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm1_lab.files import RESULTS, locked, replace
from mm1_lab.formatting import first_line


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database in results/local."""
    return named_store() or _local_uri()


def named_store() -> str | None:
    """MLFLOW_TRACKING_URI, unless it is the database in results/local: MLflow sets it so while it serves that."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return uri if uri and uri != _local_uri() else None


def _local_uri() -> str:
    return f"sqlite:///{(RESULTS / 'mlflow.db').absolute()}"


def without_secrets(text: str, instead: str = "…@") -> str:
    """The text without user names and passwords in URLs and without MLflow's credentials."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        secret = os.environ.get(name)
        text = text.replace(secret, "…") if secret else text
    text = re.sub(r"([?&](?:password|passwd|pwd|token)=)[^&\s]+", r"\1…", text)
    return re.sub(r"://[^/\s]+@", f"://{instead}", text)


def connect() -> Any:
    """A quiet MLflow client that gives up on an unreachable server after seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # exceptions are reported in a line of our own
    if not named_store():
        with locked(RESULTS / ".mlflow.lock"):
            _make_database((RESULTS / "mlflow.db").absolute())
    return mlflow.MlflowClient(tracking_uri=tracking_uri())


@lru_cache(maxsize=1)
def _make_database(path: Path) -> None:
    """Creates the database atomically, as a kill while its tables are created would leave a broken one.

    A database that cannot be opened is moved aside, as it can be rebuilt from the results. It is checked once per
    process and under another spelling of its path, because MLflow caches connections by path.
    """
    from mlflow import MlflowClient

    if path.exists():
        try:
            MlflowClient(tracking_uri=f"sqlite:///{path.parent}/./{path.name}").search_experiments(max_results=1)
            return
        except Exception as error:  # whatever MLflow, SQLAlchemy and SQLite raise
            if _is_busy(error):
                raise
            aside = path.with_suffix(".broken.db")
            os.replace(path, aside)
            text = f"{path} could not be opened and is now {aside.name}; `mm1-lab sync-mlflow` logs all results again"
            print(f"mm1-lab: {text}", file=sys.stderr)
    for left in path.parent.glob(f".{path.name}.*"):  # by a kill; in a container, process ids repeat
        left.unlink()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
    replace(partial, path)


def _is_busy(error: BaseException | None) -> bool:
    """Whether SQLite only timed out waiting for another writer."""
    while error is not None:
        if getattr(getattr(error, "orig", None), "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            return True
        error = error.__cause__ or error.__context__
    return False


def no_access(error: Exception) -> str:
    """What to tell a user about an exception of MLflow, of a server or of its database."""
    return without_secrets(f"MLflow at {tracking_uri()} cannot be written ({first_line(error)})")
