"""Both executors, on work that takes no time: what fails, diverges, dies, waits and is reused."""

import errno
import io
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mm1_lab.config import RequestError, Stage, load_scale
from mm1_lab.orchestrate.execution.display import Display
from mm1_lab.orchestrate.execution.executor import make_executor
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.execution.worker import StageReport, Worker
from mm1_lab.orchestrate.execution.worklist import WorkList
from mm1_lab.orchestrate.planning.plan import Task, make_plan
from mm1_lab.results import Ledger
from mm1_lab.train.checkpoints import CHECKPOINT
from mm1_lab.train.progress import Diverged
from tests.conftest import REPOSITORY, SCALES
from tests.processes import listening_addresses


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What an executor sets does not reach later tests, but for the token, which Ray remembers.

    Where another test has loaded Ray, it did so with authentication, without which ours does not start it.
    """
    before = dict(os.environ)
    if "ray" in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
    sigterm = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, sigterm)
    token = {name: value for name, value in os.environ.items() if name == "RAY_AUTH_TOKEN"}
    os.environ.clear()
    os.environ.update(before | token)


JOINS = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except Exception as error:
    sys.exit(f"refused: {type(error).__name__}: {error}")
print("connected")
"""


def assert_nobody_else_is_let_in() -> None:
    """Ray listens to this machine alone, and refuses whoever has no token or another."""
    import ray

    address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
    if Path("/proc/net/tcp").exists():
        listening = listening_addresses(os.getpid())
        assert len(listening) > 3 and all(one.is_loopback for one in listening), listening
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    settings = {
        "RAY_gcs_rpc_server_connect_timeout_s": "1",
        "RAY_gcs_server_request_timeout_seconds": "2",
        "RAY_NUM_REDIS_GET_RETRIES": "1",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray replaces 127.0.0.1 by the network's address
    }
    for mode in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        command = [sys.executable, "-c", JOINS, address]
        result = subprocess.run(command, env=clean | settings | mode, capture_output=True, text=True)
        assert result.returncode == 1 and "connected" not in result.stdout, result.stdout
        assert "token" in result.stderr.lower(), result.stderr
        assert token not in result.stderr


def assert_sigterm_is_asked(asked: list[int]) -> None:
    """Ray's own handler would print a stack, and end the process."""
    os.kill(os.getpid(), signal.SIGTERM)
    while not asked:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "ray"])
def test_failures_are_typed_and_the_others_go_on(inline, ask, tmp_path, monkeypatch, capfd):
    """The Ray that is started for it is this user's alone, and leaves the command's signals as they were."""
    asked = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    long = tmp_path / ("T" * 90)  # too long a name for the sockets of Ray, which then go into /tmp
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # where Ray's processes find `Marker`
    (tmp_path / "of_caller.py").write_text("from tests.orchestrate.marker import Marker\nclass Own(Marker): pass")
    monkeypatch.syspath_prepend(tmp_path)  # who calls the lab in Python may import from the working folder
    only = ("base", "captions", "blind")
    request = ask(*only, seeds=2)
    ledger = request.ledger
    plan = make_plan(request.trials, ledger)
    worker = import_module("of_caller").Own(ledger, None, request.scale, dies=not inline)
    monkeypatch.chdir(tmp_path)
    result = WorkList(plan.tasks, lambda stage: 1.0, request.scale.retries, ledger)
    told = io.StringIO()
    result.observers.append(Display(result, told))
    with make_executor(request, inline) as executor:
        executor.open(request.scale)
        if not inline:
            assert capfd.readouterr().out.startswith("Starting Ray …\n")
            assert_nobody_else_is_let_in()
        assert_sigterm_is_asked(asked)
        executor.work(result, worker)

    label = {task.key: task.label for task in plan.tasks.values()}
    decoder = "decoder for base / seed 1 (and 2 more trials)"
    ends = {label[key]: (outcome.kind, outcome.reason) for key, outcome in result.failed.items()}
    assert ends == {
        "captions / seed 0": ("diverged", "the loss of step 3 is nan"),
        decoder: ("failed", "ArithmeticError: out of luck"),
    }
    assert {label[key] for key in result.blocked} == {f"{arm} / seed 1" for arm in only}
    scored = {trial.name for trial in request.trials if ledger.has_scores(trial.fingerprint)}
    assert scored == {"base / seed 0", "blind / seed 0"}
    for key, outcome in result.failed.items():
        failure = ledger.failures()[key]
        assert failure["outcome"] == outcome.kind and failure["reason"] == outcome.reason
        assert failure["attempts"] == (1 if outcome.kind == "diverged" else 2), "training again would diverge again"
        assert "Traceback" in Path(failure["log"]).read_text(encoding="utf-8")

    lines = told.getvalue()
    assert lines.count("(will retry)") == (1 if inline else 2), "the decoder, and blind where it died"
    assert inline or "blind / seed 0: its process died" in lines
    assert "did not complete" not in capfd.readouterr().err, "of blind, which was run again"
    assert "starts    base / seed 1" not in lines
    for shared in ("encoder", "decoder"):
        assert lines.index(f"done      {shared} for base / seed 0") < lines.index("starts    base / seed 0\n")
    assert not list((ledger.store / ".ray").glob("*")), "Tune's files are gone"

    # a later command plans again what failed, and what waited for it, but not what diverged
    later = make_plan(request.trials, ledger)
    assert {task.label for task in later.tasks.values()} == {decoder, *(f"{arm} / seed 1" for arm in only)}


@pytest.mark.parametrize(("gpus", "kinds"), [(0, ["diverged"]), (1, ["failed", "diverged"])])
def test_what_diverges_on_a_gpu_goes_on_once_from_its_checkpoint(ask, gpus, kinds):
    """A fault of one GPU of many would otherwise end a run, and delete all of it."""
    request = ask("base", settings=(f"resources.gpus={gpus}",))
    ledger = request.ledger

    class Unlucky(Worker):
        def _run_stage(self, stage: Stage, folder: Path, *_: object) -> None:
            (folder / CHECKPOINT).mkdir(exist_ok=True)
            raise Diverged("the loss of step 3 is nan")

    worker = Unlucky(ledger, None, request.scale)
    task = next(task for task in make_plan(request.trials, ledger).tasks.values() if task.stages[0].TRAINS)
    folder = ledger.partial_folder(task.key)
    for kind in kinds:
        outcome = worker.attempt(task, lambda *_: None)
        assert outcome.kind == kind and "the loss of step 3 is nan" in outcome.reason
        assert any(folder.iterdir()) == (kind == "failed")


def test_a_gpu_s_lack_of_memory_is_told_with_what_to_do(tmp_path):
    errors = [torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError("CUDA error: out of memory")]

    class Full(Worker):
        def run(self, task: Task, report: StageReport) -> None:
            raise errors.pop(0)

    worker = Full(Ledger(tmp_path), None, load_scale("smoke", SCALES))
    outcome = worker.attempt(Task("a", (), (), ()), lambda kind, progress: None)
    assert outcome.kind == "out of memory" and "CUDA out of memory.; take resources.micro_batch=1" in outcome.reason
    assert "of several `workers` that evaluate, more resources.evaluation_shards (--set)" in outcome.reason
    # one of CUDA's own, not torch's, may pass, and the process can go on
    assert worker.attempt(Task("a", (), (), ()), lambda kind, progress: None).kind == "failed"


def test_ray_that_was_loaded_without_authentication_is_not_started(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", sys.modules.get("ray", sys))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    executor = RayTune()
    with pytest.raises(RequestError, match="set RAY_AUTH_MODE=token before `import ray`"):
        executor.open(load_scale("smoke", SCALES))


def test_ray_may_be_started_from_a_thread(monkeypatch):
    """As by a service: only the main thread may set handlers of signals."""
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: nodes))
    monkeypatch.setattr(RayTune, "_start", lambda *_: None)
    executor = RayTune()
    with ThreadPoolExecutor() as threads:
        threads.submit(executor.open, load_scale("smoke", SCALES)).result()
    assert executor.slots


def test_a_ctrl_c_while_ray_is_imported_leaves_it_whole(monkeypatch, tmp_path):
    """In a notebook, whose process lives on: half a Ray could neither start nor be imported again."""
    (tmp_path / "ray.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\ndef shutdown(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray")
    with RayTune() as executor, pytest.raises(KeyboardInterrupt):
        executor.open(load_scale("smoke", SCALES))
    assert sys.modules["ray"].shutdown


def test_sigterm_while_ray_starts_is_the_command_s(monkeypatch):
    """And not of the handler that Ray has installed by then, which exits with 1 or the signal's number."""
    asked = []

    def start(*_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RayTune, "_start", start)
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        with pytest.raises(SystemExit):
            RayTune().open(load_scale("smoke", SCALES))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked == [signal.SIGTERM]


def test_no_room_for_ray_is_told_in_one_line(monkeypatch, tmp_path):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/mm1-lab-x/mm1_lab/cli.py")

    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    told = r"cannot be copied for Ray's processes \(\[Errno 28\] No space left on device: '[^']*'\); make room there"
    with RayTune() as executor, pytest.raises(RequestError, match=told):
        executor.open(load_scale("smoke", SCALES))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["plain", "a'b"])
def test_ray_is_told_of_a_temporary_folder_in_which_it_starts(monkeypatch, tmp_path, name):
    """Of that which Python took, or else of /tmp. The package is copied there without what only its owner may read."""
    package, chosen = tmp_path / "mm1_lab", Path(tempfile.mkdtemp(dir="/tmp")) / name
    for folder in (chosen, package, package / "config", package / "__pycache__"):
        folder.mkdir()
    (package / "config").chmod(0o555)
    monkeypatch.setattr("os.access", lambda path, _: "__pycache__" not in path)  # root may read all
    monkeypatch.setattr("mm1_lab.orchestrate.execution.ray_tune.PACKAGE", package)
    monkeypatch.setattr("tempfile.tempdir", str(chosen))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setitem(sys.modules, "ray", None)  # it is imported next, and cannot be
    with RayTune() as executor:
        with pytest.raises(ImportError):
            executor.open(load_scale("smoke", SCALES))
        (copied,) = chosen.rglob("config")
        assert copied.stat().st_mode & 0o200, "or whoever is not root could not delete it"
        assert not list(chosen.rglob("__pycache__"))
    assert os.environ["RAY_TMPDIR"] == (str(chosen) if name == "plain" else "/tmp")
    chosen.rmdir()
    chosen.parent.rmdir()


def test_a_node_that_joined_without_the_store_runs_nothing(ask):
    """It came after the check of all nodes; what it would train would be lost with it."""
    request = ask("base")
    plan, ledger = make_plan(request.trials, request.ledger), request.ledger
    elsewhere = ledger.store / ".ray" / "storage" / "groups"
    worker = Worker(ledger, None, request.scale, groups=elsewhere)
    task = next(iter(plan.tasks.values()))
    outcome = worker.attempt(task, lambda kind, progress: None)
    assert outcome.kind == "failed"
    assert f"this node ({platform.node()}) does not see {elsewhere.parent}; mount the store there" in outcome.reason
    assert not list(ledger.store.glob("*"))
