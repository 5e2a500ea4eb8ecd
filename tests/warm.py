"""Commands in processes of their own that begin at once: forked from one that has imported other people's libraries.

Importing torch, Lightning and MLflow takes as long as a small sweep. The package itself is imported by each command
anew, from the folder that it is given; its figures are written without ink. For Linux: elsewhere such libraries do
not stand a fork.
"""

import contextlib
import fcntl
import gc
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = (
    "torch", "lightning.pytorch", "transformers", "transformers.models.llama.modeling_llama", "mlflow",
    "mlflow.store.tracking.sqlalchemy_store", "matplotlib.figure", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf", "scipy.stats", "pandas",
)  # fmt: skip


def without_ink(*_: object, **__: object) -> None:
    """Stands for `Figure.draw`: layout and ink take most of the time of drawing, and other tests look at pictures."""


class Command:
    """A running command, with what tests use of subprocess.Popen: output and errors come together, as text."""

    def __init__(self, output: int, status: int) -> None:
        self.stdout = os.fdopen(output, encoding="utf-8")
        self.status = os.fdopen(status, encoding="utf-8")
        self.pid = int(self.status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self.status.readline())
            self.status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Everything not read yet, and None for errors; subprocess.TimeoutExpired if the command runs on till then."""
        ended = time.monotonic() + (timeout or 0)
        while timeout is not None and self.poll() is None:
            if time.monotonic() > ended:
                raise subprocess.TimeoutExpired("mm1-lab", timeout)
            time.sleep(0.01)
        with self.stdout:
            output = self.stdout.read()
        self.wait()
        return output, None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Starter:
    """The process that forks, which makes its imports when a command is first asked for; one for all of xdist's."""

    def __init__(self) -> None:
        self.channel = os.environ.get("MM1_LAB_STARTER")
        """Where it is asked."""
        self.process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Starts it for this process and those that it starts from now on."""
        self.folder = tempfile.TemporaryDirectory()
        self.channel = os.environ["MM1_LAB_STARTER"] = os.path.join(self.folder.name, "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(self.channel)
            listening.listen()
            fixed = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}  # read when imported
            ends, self.ending = os.pipe()
            descriptors = (listening.fileno(), ends)
            command = [sys.executable, __file__, *map(str, descriptors)]
            self.process = subprocess.Popen(command, pass_fds=descriptors, env=fixed, stdin=subprocess.DEVNULL)
            os.close(ends)

    def start(self, arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> Command:
        """`python -m mm1_lab.cli` with these arguments in the folder, in a session of its own."""
        if self.channel is None:
            self.open()
        (output, told), (status, reported) = os.pipe(), os.pipe()
        fcntl.fcntl(told, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads while `communicate` waits
        message = json.dumps({"arguments": arguments, "folder": str(folder), "environment": environment})
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.connect(self.channel)
            socket.send_fds(channel, [message.encode()], [told, reported])
        os.close(told)
        os.close(reported)
        return Command(output, status)

    def close(self) -> None:
        """Ends it where it was opened."""
        if self.process:
            os.close(self.ending)
            self.process.wait()
            self.folder.cleanup()


STARTER = Starter()


def serve(listening: socket.socket, ends: int) -> None:
    """Forks for every message one process that runs the command and one that reports its number and how it ended;
    until `ends` is closed."""
    while True:
        if ends in select.select([listening, ends], [], [])[0]:
            return
        channel, _ = listening.accept()
        for library in LIBRARIES:  # at first
            __import__(library)
        sys.modules["matplotlib.figure"].Figure.draw = without_ink
        gc.freeze()  # or the children's collections would copy the pages of all of it
        message, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 2)
        channel.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        if os.fork() == 0:
            listening.close()
            report(json.loads(message), *descriptors)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def report(asked: dict, output: int, status: int) -> None:  # type: ignore[type-arg]
    """Runs what is asked in a child; writes its number, and when it has ended its exit code, into `status`."""
    child = os.fork()
    if child == 0:
        os.close(status)
        os.setsid()
        os.chdir(asked["folder"])
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        for number, name in ((1, "stdout"), (2, "stderr")):  # the old ones take the new files for seekable
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False, buffering=1))
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.path[0:1] = [asked["folder"], asked["environment"]["PYTHONPATH"]]
        sys.argv[1:] = asked["arguments"]
        runpy.run_module("mm1_lab.cli", run_name="__main__", alter_sys=True)
        return
    os.close(output)
    os.write(status, f"{child}\n".encode())
    _, ended = os.waitpid(child, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
