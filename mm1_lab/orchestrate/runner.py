"""Works through what is missing with one Ray Tune run.

Tune gives processes, resources, clusters and isolation; which unit is next is ours (`worklist.py`), and what is done is
the ledger's. Tune's own experiment state is never read: it lies in a temporary folder that is removed at the end.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm1_lab.config import RequestError, Resources
from mm1_lab.orchestrate.cost import measured_speeds
from mm1_lab.orchestrate.plan import Plan, Unit, path_lengths
from mm1_lab.orchestrate.request import REPOSITORY, machine_cpus
from mm1_lab.orchestrate.worker import Site, StageReport, await_inputs, run_unit
from mm1_lab.orchestrate.worklist import Observer, WorkList
from mm1_lab.results.files import scratch_folder
from mm1_lab.train.progress import Progress

Work = Callable[[Unit, dict[str, Any], Site, StageReport], None]

REPORT_SECONDS = 1.0
"""A running stage tells the driver its progress this often at most; each report costs Tune some 20 ms."""


def run_plan(
    plan: Plan, site: Site, observers: Sequence[Observer], address: str | None, scratch: Path, work: Work = run_unit
) -> WorkList:
    """Runs every unit of the plan; returns which are done, failed (recorded in the ledger too) and blocked.

    `scratch` is where a folder for Tune's own files is made. Raises RequestError if the machine lacks what a stage
    occupies.
    """
    priority = path_lengths(plan.units, measured_speeds(site.ledger))
    work_list = WorkList(plan.units, priority, site.scale.retries, may_stand_by=site.scale.reuse_processes)
    with scratch_folder(scratch) as storage, _cluster(site.scale.resources, address) as slots:
        _tune(work_list, plan, site, observers, slots, storage, work)
    return work_list


@contextmanager
def _cluster(resources: Resources, address: str | None) -> Iterator[int]:
    """A Ray of our own, or a running one at `address`; gives the number of units that fit at a time."""
    threads = str(max(1, int(resources.cpus)))
    paths = [os.fspath(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": threads,
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_THRESHOLD_S": "60",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if address is None:
        settings |= {"RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    os.environ.update(settings | variables)
    import ray

    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(address="local", num_cpus=machine_cpus(), object_store_memory=200 * 2**20, **quiet)
    else:
        try:
            ray.init(address=address, runtime_env={"env_vars": variables}, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError) as error:
            raise RequestError(f"--address {address}: there is no Ray cluster ({error})") from None
    # Ray's own handler prints a C++ stack; a sweep that is asked to end shall end as with Ctrl-C
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield _slots(resources, ray.cluster_resources())
    finally:
        signal.signal(signal.SIGTERM, before)
        _shut_down()


def _shut_down() -> None:
    """Ends Ray, with the garbage collector at rest.

    While Ray shuts down, an object of its own that is collected (in the recorder's thread, say) makes it end this
    process at once with exit code 1.
    """
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _slots(resources: Resources, available: dict[str, float]) -> int:
    counts = []
    for name, need in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if need > 0:
            counts.append(int(available.get(name, 0) / need))
            if counts[-1] < 1:
                raise RequestError(
                    f"a stage needs {need:g} {name}s, and there are {available.get(name, 0):g}; "
                    f"set resources.{name.lower()}s to what there is (--set)"
                )
    return min(counts)


def _tune(
    work_list: WorkList,
    plan: Plan,
    site: Site,
    observers: Sequence[Observer],
    slots: int,
    storage: Path,
    work: Work,
) -> None:
    """One Tune run over the work list; `storage` is a folder for Tune's own files."""
    from ray import tune

    from mm1_lab.orchestrate.tuning import Relay, UnitSearcher

    recipes = {trial.fingerprint: trial.recipe.model_dump(mode="json") for trial in plan.trials}
    trainable = tune.with_parameters(_trainable, units=plan.units, recipes=recipes, site=site, work=work)
    resources = site.scale.resources
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=UnitSearcher(work_list, site.ledger, observers),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=site.scale.reuse_processes,
        ),
        run_config=tune.RunConfig(
            name="run", storage_path=os.fspath(storage), verbose=0, callbacks=[Relay(work_list, observers)]
        ),
    ).fit()


def _trainable(config: dict[str, Any], units: dict[str, Unit], recipes: dict[str, Any], site: Site, work: Work) -> None:
    """What Tune runs in a process: one unit; its progress goes back as Tune results."""
    from ray import tune

    last = 0.0

    def report(kind: str, progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            last = now
            tune.report(
                {
                    "kind": kind,
                    "at_step": progress.step,
                    "of_steps": progress.steps,
                    "losses": dict(progress.losses),
                    "tokens_per_second": progress.tokens_per_second,
                }
            )

    unit = units[config["unit"]]
    if config["stands_by"]:
        await_inputs(unit, site)
        tune.report({"ready": True})
    work(unit, recipes.get(unit.key, {}), site, report)
