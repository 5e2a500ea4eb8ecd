"""The executor that is Ray Tune: processes, resources, clusters and isolation are its, the order of tasks is ours.

A task is a Tune trial. Its function never raises: it reports an outcome, so that an error means that the process died.
Tune's own experiment state is never read, for the ledger says what is done.
"""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest import mock

from mm1_lab.config import RequestError, Resources, Scale
from mm1_lab.files import PACKAGE, machine_cpus
from mm1_lab.formatting import first_line
from mm1_lab.orchestrate.executor import Executor, Work
from mm1_lab.orchestrate.groups import workers_of
from mm1_lab.orchestrate.plan import Task
from mm1_lab.orchestrate.preflight import ask_ray, check_nodes
from mm1_lab.orchestrate.worker import WorkerContext, attempt
from mm1_lab.orchestrate.worklist import Execution, Outcome
from mm1_lab.train.progress import Progress

KILLED = Outcome("failed", "its process ended without a word: killed, or out of memory")
STARTS_GROUP = {"node:__internal_head__": 0.001}
"""What a task for several workers occupies itself: nothing, on the head node; its group books the rest."""

REPORT_SECONDS = 1.0
"""A running stage tells the driver its progress this often at most; each report costs Tune some 20 ms."""

PRELOADED = "mm1_lab.orchestrate.preloaded"
"""Imports what every task imports; Ray's waiting processes do it before they get one."""

LEFT_OUT = ("start_api_server", "start_monitor", "start_log_monitor")
"""Ray's servers for a dashboard, for machines to be added and for logs: each is a Python process, and Ray waits seconds
for the first before it starts any of ours. Where a version of Ray has other names for them, they start."""

ABANDONED_DAYS = 7
"""Tune's files of a run that was killed are removed after so long."""

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune is silent: the display is ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files of results beside the ledger
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command at once, not after the running stages
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",  # no remarks on a busy machine
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the ledger is what a later command goes by
    "RAY_USAGE_STATS_ENABLED": "0",
}
OWN_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # Ray listens on all interfaces: who has no token is refused
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a stage without a GPU shall not make torch look for none
}


class RayTune(Executor):
    """A Ray of our own on this machine, or a running one at `address`."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self.slots = 0
        """Tasks, or workers of tasks, that fit at a time; 0 until it is open."""
        self.code: Path | None = None
        """The copy of the package that this machine's processes work with."""
        self.closing = threading.Event()

    def open(self, scale: Scale) -> None:
        if self.slots:
            return
        if self.address is None and "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
            raise RequestError(
                "Ray was imported before without authentication, which it reads only then: set RAY_AUTH_MODE=token "
                "before `import ray`, or run without Ray (--inline)"
            )
        print("starts Ray, whose processes train …", flush=True)
        if self.address is None:
            self.code = Path(mkdtemp(prefix="mm1-lab-"))
            # whoever edits the package while a sweep runs does not change the sweep
            shutil.copytree(PACKAGE, self.code / PACKAGE.name, ignore=shutil.ignore_patterns("shipped"))
        variables = _worker_environment(scale.resources, self.code or PACKAGE.parent)
        os.environ.update(SETTINGS | variables)
        if self.address is None:
            os.environ.update(OWN_SETTINGS)
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        import ray  # which reads the mode of authentication when it is loaded

        before = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            # where processes are not reused, each task has a fresh one, and stages are long: all that is gained is
            # that the package is found before Ray puts the working directory in front of PYTHONPATH
            waiting = {
                "preload_python_modules": [PRELOADED if scale.reuse_processes else PACKAGE.name],
                "idle_worker_killing_time_threshold_ms": 600_000,  # or Ray ends them when Tune books their processors
            }
            left_out: dict[str, Any] = dict.fromkeys(LEFT_OUT, lambda node, **settings: None)
            try:
                with mock.patch.multiple("ray._private.node.Node", create=True, **left_out):
                    ray.init(
                        address="local",
                        num_cpus=machine_cpus(),
                        include_dashboard=False,
                        object_store_memory=200 * 2**20,  # tasks are small, and results go by files
                        _node_ip_address="127.0.0.1",  # and not the network's, which a laptop may leave
                        _system_config=waiting,
                        **quiet,
                    )
            except Exception as error:  # Ray raises no narrower one when a process of its own dies meanwhile
                text = f"Ray did not start ({first_line(error)}); run the same command again, or without Ray (--inline)"
                raise RequestError(text) from None
            threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()
        else:
            del variables["PYTHONPATH"]  # the code travels with the job
            there = {"env_vars": variables, "py_modules": [os.fspath(PACKAGE)]}
            _check_answers(self.address)
            try:
                ray.init(address=self.address, runtime_env=there, **quiet)
            except (ConnectionError, ValueError) as error:
                raise RequestError(f"--address {self.address}: there is no Ray cluster ({error})") from None
        signal.signal(signal.SIGTERM, before)  # Ray's own handler prints a C++ stack
        self.slots = _slots(scale.resources, [node["Resources"] for node in ray.nodes() if node["Alive"]])

    def work(self, execution: Execution, context: WorkerContext, work: Work) -> None:
        from ray import tune
        from ray.tune.execution import class_cache

        from mm1_lab.orchestrate.tune_hooks import Relay, TaskSearcher

        if self.address is None:
            # Ray's processes have this one's environment. A task that brought one of its own, as Tune would have it,
            # could not go to a waiting process: all that those have imported would be imported again in others.
            class_cache.DEFAULT_ENV_VARS.clear()
            class_cache.ENV_VARS_TO_PROPAGATE.clear()

        tasks, scale = execution.work_list.tasks, context.scale
        workers = {key: max(workers_of(stage, scale) for stage in task.stages) for key, task in tasks.items()}
        for key, count in workers.items():
            if count > self.slots:
                raise RequestError(
                    f"{tasks[key].label}: {count} workers, and there is room for {self.slots}; give fewer in the "
                    "scale's `workers`, or start more nodes"
                )
        if self.address is not None:
            check_nodes(ask_ray, context, tasks)

        def books(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            booked = {"CPU": scale.resources.cpus, "GPU": scale.resources.gpus}
            return tune.PlacementGroupFactory([STARTS_GROUP if workers[config["task"]] > 1 else booked])

        with _storage(context.store / ".ray") as storage:
            there = replace(context, groups=storage / "groups")
            trainable = tune.with_parameters(_trainable, tasks=tasks, context=there, work=work)
            tune.Tuner(
                tune.with_resources(trainable, books),
                tune_config=tune.TuneConfig(
                    search_alg=TaskSearcher(execution, workers, self.slots),
                    num_samples=-1,
                    max_concurrent_trials=self.slots,
                    reuse_actors=scale.reuse_processes,
                ),
                run_config=tune.RunConfig(
                    name="run", storage_path=os.fspath(storage), verbose=0, callbacks=[Relay(execution)]
                ),
            ).fit()

    def close(self) -> None:
        """Ends Ray, with the garbage collector at rest.

        While Ray shuts down, an object of its own that is collected (in another thread, say) makes it end this process
        at once with exit code 1.
        """
        self.closing.set()
        if "ray" not in sys.modules:
            return
        import ray

        gc.collect()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            gc.enable()
            self.slots = 0
            if self.code:
                shutil.rmtree(self.code, ignore_errors=True)

    def _watch(self) -> None:
        """Ends the command in a line of ours when a process of Ray's dies; Ray itself would write C++ messages."""
        from ray._private import worker

        node = worker._global_node
        while not self.closing.wait(0.5):
            dead = [kind for kind, _ in node.dead_processes() if kind in ("raylet", "gcs_server")]
            if dead and not self.closing.is_set():
                text = f"\nmm1-lab: Ray's {dead[0]} was killed or ran out of memory; the same command goes on from here"
                print(text, file=sys.stderr, flush=True)
                os._exit(1)


def _check_answers(address: str) -> None:
    """Raises RequestError where nothing listens at HOST:PORT; Ray itself would try for long, and write of it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise RequestError(f"--address {address}: there is no Ray cluster ({first_line(error)})") from None


def _worker_environment(resources: Resources, code: Path) -> dict[str, str]:
    paths = [os.fspath(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": str(max(1, int(resources.cpus))),
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # workers import for long on a busy machine
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }


def _slots(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> int:
    """How often `resources` fit into what each node has."""
    if resources.gpus > 1:
        raise RequestError(
            f"resources.gpus: a process uses one GPU and would leave others of {resources.gpus:g} idle; set 1 (--set), "
            f"and for stages on several name their sizes in the scale: `workers: {{SIZE: {resources.gpus:g}}}`"
        )
    needs = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    slots = sum(min(int(node.get(name, 0) / need) for name, need in needs.items()) for node in nodes)
    if not slots:
        wanted = " and ".join(f"{need:g} {name}s" for name, need in needs.items())
        raise RequestError(f"a stage needs {wanted}, and no node has them; set resources to what there is (--set)")
    return slots


@contextmanager
def _storage(parent: Path) -> Iterator[Path]:
    """A folder for Tune's own files, which every node of a cluster must see; removed at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        if time.time() - old.stat().st_mtime > ABANDONED_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trainable(config: dict[str, Any], tasks: Mapping[str, Task], context: WorkerContext, work: Work) -> None:
    """What Tune runs in a process: one task; its progress and its outcome go back as Tune results."""
    from ray import tune

    last = 0.0

    def report(kind: str, progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            last = now
            tune.report({"kind": kind, "progress": asdict(progress)})

    outcome = attempt(tasks[config["task"]], context, report, work)
    tune.report({"outcome": outcome.kind, "reason": outcome.reason})
