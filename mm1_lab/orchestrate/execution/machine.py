"""What a machine may lack for training and for Ray, said before a library crashes or Ray hangs."""

import os
import resource
import shutil
import socket
from pathlib import Path

from mm1_lab.config import RequestError

LEAST_MEMORY, LEAST_FOR_RAY = 1_500_000_000, 4_000_000_000
"""Bytes of address space that a process of a sweep takes at smoke."""
LEAST_DISK = 50_000_000
"""Bytes for Ray's logs and the copy of this package."""
LONGEST_SOCKET = 107
"""Length limit of a socket's path on Linux, in bytes."""
SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path that Ray gives to a socket in its temporary folder."""
INLINE = "or run without Ray (--inline)"


def check_memory(least: int = LEAST_MEMORY) -> None:
    """Raises RequestError if a limit of address space is too low to load the training libraries."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < least:
        text = f"memory is limited to {limit / 1e9:.1f} GB, and the libraries alone need {least / 1e9:.1f} GB"
        inline = f", {INLINE}" if limit >= LEAST_MEMORY else ""
        raise RequestError(f"{text}; raise the limit (ulimit -v){inline}")


def check_ray_can_start() -> None:
    """Raises RequestError if Ray's processes could not start or reach each other on this machine."""
    check_memory(LEAST_FOR_RAY)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        reason = error.strerror or error
        raise RequestError(
            f"Ray's processes talk over 127.0.0.1, which cannot be reached ({reason}); "
            f"bring the loopback interface up (ip link set lo up), {INLINE}"
        ) from None
    folder = ray_temporary_folder()
    if fault := _fault(folder):
        text = f"{folder}: Ray cannot use this temporary folder ({fault}); set RAY_TMPDIR to another, {INLINE}"
        raise RequestError(text)


def ray_temporary_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def _fault(folder: str) -> str | None:
    """Why Ray cannot keep its files in the folder; None if it can."""
    if not folder.isascii():
        return "its name is not ASCII"
    if len(os.path.join(folder, SOCKET)) > LONGEST_SOCKET:
        return f"its name is longer than {LONGEST_SOCKET - len(SOCKET) - 1} characters, too long for sockets"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder).free) < LEAST_DISK:
            return f"{free / 1e6:.0f} MB of {LEAST_DISK / 1e6:.0f} MB are free"
    except OSError as error:
        return error.strerror
    return None if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written to"
