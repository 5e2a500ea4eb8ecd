"""The Ray executor: starts a Ray for the command, or joins a cluster, whose nodes are checked before anything runs;
`tune.py` runs the tasks there.

Stages pass files to each other. A node that does not see the driver's folders would repeat finished work or wait for
files that never appear; one with different libraries would produce other numbers under the same fingerprints.
"""

import gc
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import Any

from mm1_lab.config import RequestError, Resources, Scale
from mm1_lab.files import PACKAGE, TEMPORARY
from mm1_lab.formatting import first_line, short
from mm1_lab.machine import machine_cpus
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.execution.groups import FOLDER
from mm1_lab.orchestrate.execution.worker import Worker, library_versions
from mm1_lab.orchestrate.execution.worklist import WorkList
from mm1_lab.orchestrate.planning.cost import STAGE_BYTES, memory_slots
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.processes import interrupts_blocked

ANSWER_SECONDS = 300.0
"""Timeout for a node's answer; it must fetch the code first and may be busy."""


def check_nodes(worker: Worker) -> None:
    """Raises RequestError, naming the node and the path or library, if a node cannot run tasks like this one."""
    name = f".preflight-{secrets.token_hex(8)}"  # which only a node that sees the driver's folder can find
    folders = [worker.ledger.results / name, worker.ledger.store / name]
    try:
        for folder in folders:
            folder.mkdir(parents=True)
        for node, problem in ask_ray(folders, library_versions()).items():
            if problem:
                raise RequestError(f"node {node} {problem}")
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def fault(folders: Sequence[Path], expected: Mapping[str, str]) -> str:
    """What is wrong with this node, which should see the driver's `folders` and have its libraries; empty if nothing.

    Ray itself refuses a node with another Python or Ray, and sends it this package.
    """
    for folder in folders:
        try:
            (folder / secrets.token_hex(8)).touch()
        except OSError:
            return (
                f"does not see {folder.parent}, or cannot write there; every node needs it under this path (on a "
                "shared file system), see docs/cluster.md"
            )
    own = library_versions()
    for package, version in expected.items():
        if own[package] != version:
            return f"has {package} {own[package]}, but the driver has {version}; install the same"
    return ""


def ask_ray(folders: Sequence[Path], expected: Mapping[str, str]) -> dict[str, str]:
    """What `fault` says on every node of the cluster that this process is connected to, by the node's name."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(fault)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            key = node["NodeID"]
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {key[:8]})"
            there = NodeAffinitySchedulingStrategy(key, soft=False)
            asked[name] = remote.options(scheduling_strategy=there).remote(folders, expected)
    answers = {}
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            answers[name] = f"cannot run this code ({reason})"
    return answers


SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # silences Tune, as the display is ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no result files besides the ledger's
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command at once, not after the running stages
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",  # no warnings on a busy machine
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's state is not used; commands resume from the ledger
    "RAY_USAGE_STATS_ENABLED": "0",
}
LOCAL = {
    # found before Ray puts the working directory, and perhaps another mm1_lab, in front of PYTHONPATH
    "RAY_preload_python_modules": PACKAGE.name,
    "RAY_prestart_worker_first_driver": "0",  # those processes would lack the environment of Tune's, and stay unused
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too Ray then listens on 127.0.0.1 alone
}
"""Settings of a Ray that this command starts."""
LEAST_MEMORY = 4_000_000_000
"""Bytes of address space that Ray's processes take: with a lower limit it hangs."""
FOR_RAY = re.compile(r"[a-zA-Z0-9/._+-]{1,39}")
"""Names of folders in which Ray starts. It adds up to 68 bytes, in a path of a socket, which has at most 107, and puts
them into command lines."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class RayTune(Executor):
    """Runs tasks with a local Ray started for this command, or with a running Ray cluster at `address`."""

    shares_stages = True

    def __init__(self, address: str | None = None, settings: Collection[str] = ()) -> None:
        """`settings` as for `memory_slots`, which counts without an address."""
        self.address = address
        self.settings = settings
        self.slots = 0
        """0 until `open`."""
        self.code: Path | None = None
        """The copy of the package that a local Ray's processes import."""
        self.closing = threading.Event()

    def open(self, scale: Scale) -> None:
        if self.slots:
            return
        before = signal.getsignal(signal.SIGTERM)
        held = sys.maxsize
        try:
            if self.address is None:
                held = memory_slots(scale, self.settings)
                self._start(scale)
            else:
                self._join(self.address, scale.resources)
        except SystemExit:  # of Ray's own handler
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
            raise
        if threading.current_thread() is threading.main_thread():  # elsewhere neither Ray nor we set handlers
            signal.signal(signal.SIGTERM, before)  # Ray's own handler prints a C++ stack
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fit = _slots(scale.resources, nodes, self.address is not None)
        self.slots = min(fit, held)
        if held < fit:
            print(
                f"{self.slots} at a time, not {fit}: each takes about {short(STAGE_BYTES, 'B')} of memory, and no more "
                f"is free; --set resources.cpus={scale.resources.cpus:g} takes {fit}",
                flush=True,
            )

    def _start(self, scale: Scale) -> None:
        """Starts a Ray on this machine for this command. Raises RequestError if that fails."""
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
            raise RequestError(
                f"memory is limited to {limit / 1e9:.1f} GB, and Ray needs {LEAST_MEMORY / 1e9:.0f} GB; raise the "
                "limit (ulimit -v), or run without Ray (--inline)"
            )
        cpus = machine_cpus(scale.resources.cpus)
        _slots(scale.resources.model_copy(update={"gpus": 0}), [{"CPU": cpus}], False)  # Ray counts the GPUs
        if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
            raise RequestError(
                "Ray was imported without authentication, which it sets up on import: set RAY_AUTH_MODE=token before "
                "`import ray`, or run without Ray (--inline)"
            )
        print("Starting Ray …", flush=True)
        try:
            self.code = Path(mkdtemp(prefix="mm1-lab-"))
            TEMPORARY.add(self.code)
            # so that edits to the package do not change a running sweep
            shutil.copytree(PACKAGE, self.code / PACKAGE.name, ignore=_left_out)
            for folder, _, _ in os.walk(self.code):  # nothing in one that may only be read can be deleted
                os.chmod(folder, 0o700)
        except OSError as error:
            why = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # it lists every file
            remedy = "make room there, or name another folder in TMPDIR"
            raise RequestError(f"the package cannot be copied for Ray's processes ({why}); {remedy}") from None
        os.environ.update(SETTINGS | LOCAL | _worker_environment(scale.resources, self.code))
        os.environ["RAY_AUTH_MODE"] = "token"  # other users of this machine are refused
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if sys.platform != "darwin":  # there Ray takes /tmp itself
            os.environ.setdefault("RAY_TMPDIR", gettempdir() if FOR_RAY.fullmatch(gettempdir()) else "/tmp")
        os.environ.pop(FOLDER, None)
        start = Path.cwd()
        if "PYTHONSAFEPATH" in os.environ:  # as the command line sets it: a caller in Python may import from there
            # Ray's processes would import a profile.py of the folder where Ray is started as Python's
            os.environ[FOLDER] = os.fspath(start)
            start = self.code
        with interrupts_blocked():  # or an interrupted notebook could neither import nor start Ray again
            import ray  # reads RAY_AUTH_MODE when it is imported

        try:
            with chdir(start):
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=200 * 2**20,  # tasks are small, and results are passed as files
                    **QUIET,
                )
        except Exception as error:  # Ray raises nothing narrower if one of its processes dies meanwhile
            text = f"Ray did not start ({first_line(error)}); run the same command again, or without Ray (--inline)"
            raise RequestError(text) from None
        (node,) = ray.nodes()
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        servers = {"raylet": (node["NodeManagerAddress"], node["NodeManagerPort"]), "gcs_server": (host, int(port))}
        threading.Thread(target=self._watch, args=[servers], name="ray-watch", daemon=True).start()

    def _join(self, address: str, resources: Resources) -> None:
        """Joins a running cluster. Raises RequestError if there is none."""
        print(f"Joining the Ray cluster at {address} …", flush=True)
        variables = _worker_environment(resources, PACKAGE.parent)
        os.environ.update(SETTINGS | variables)
        import ray

        del variables["PYTHONPATH"]  # the code travels with the job
        there = {"env_vars": variables, "py_modules": [os.fspath(PACKAGE)]}
        host, _, port = address.removeprefix("ray://").rpartition(":")
        perhaps = ""
        try:
            if host and port.isdigit():  # Ray itself would retry for long and print messages
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            perhaps = ", or it has a token: set RAY_AUTH_MODE=token"
            ray.init(address=address, runtime_env=there, **QUIET)
        except (OSError, OverflowError, ValueError) as error:
            raise RequestError(f"--address {address}: there is no Ray cluster ({first_line(error)}){perhaps}") from None

    def check_room(self, tasks: Iterable[Task], scale: Scale) -> None:
        for task in tasks:
            workers = _workers(task, scale)
            if workers > self.slots:
                raise RequestError(
                    f"{task.label}: {workers} workers, but only {self.slots} fit; set fewer in the scale's "
                    "`workers`, or start more nodes"
                )

    def work(self, work_list: WorkList, worker: Worker) -> None:
        from mm1_lab.orchestrate.execution.tune import run_trials

        workers = {key: _workers(task, worker.scale) for key, task in work_list.tasks.items()}
        if self.address is not None:
            check_nodes(worker)
        run_trials(work_list, worker, workers, self.slots)

    def close(self) -> None:
        """Shuts Ray down, with the garbage collector disabled.

        If one of Ray's objects is collected during shutdown (for example in another thread), Ray ends this process with
        exit code 1.
        """
        self.closing.set()
        try:
            if ray := sys.modules.get("ray"):
                gc.collect()
                gc.disable()
                ray.shutdown()
        finally:
            gc.enable()
            self.slots = 0
            if self.code:
                shutil.rmtree(self.code, ignore_errors=True)

    def _watch(self, servers: Mapping[str, tuple[str, int]]) -> None:
        """Ends the command with a one-line message if one of Ray's servers dies; Ray itself prints C++ messages."""
        while not self.closing.wait(0.5):
            for name, address in servers.items():
                try:
                    socket.create_connection(address, timeout=10).close()
                except ConnectionRefusedError:
                    if self.closing.is_set():
                        return
                    text = f"\nmm1-lab: Ray's {name} was killed or ran out of memory; run the same command to continue"
                    print(text, file=sys.stderr, flush=True)
                    os._exit(1)
                except OSError:  # a busy machine, or one that sleeps: it may yet answer
                    continue


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Also a `__pycache__` of its owner alone, which Python does without."""
    cached = os.path.join(folder, "__pycache__")
    return [name for name in names if name == "shipped" or (name == "__pycache__" and not os.access(cached, os.R_OK))]


def _workers(task: Task, scale: Scale) -> int:
    return max(stage.workers(scale) for stage in task.stages)


def _worker_environment(resources: Resources, code: Path) -> dict[str, str]:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [os.fspath(code), *(os.path.abspath(path) for path in given if path)]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(max(1, int(resources.cpus))),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # or stages without GPUs would all see, and use, the first one
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # imports take long on a busy machine
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        # Tune runs each task in a new thread, and glibc keeps a heap per thread: five trials at mini grew a process
        # from 0.8 to 1.5 GB; with two heaps it stayed at 1.0 over three
        "MALLOC_ARENA_MAX": "2",
    }


def _slots(resources: Resources, nodes: Sequence[Mapping[str, float]], cluster: bool) -> int:
    """How many stages with these `resources` fit on the live nodes at a time. Raises RequestError if none does."""
    needs = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    slots = sum(min(int(node.get(name, 0) / need) for name, need in needs.items()) for node in nodes)
    if not slots:
        wanted = " and ".join(f"{need:g} {name}s" for name, need in needs.items())
        start = "start one that has (autoscalers: `min_workers`, in KubeRay `minReplicas`), or "
        lack = f"no running node of the cluster has them; {start}" if cluster else "this machine lacks them; "
        raise RequestError(f"a stage needs {wanted}, but {lack}lower `resources` (--set)")
    return slots
