"""Runs a stage on several workers: a Ray Train worker group, with a GPU per worker if the stage uses GPUs.

The task's own process only starts the group and relays progress. The number of workers is not part of a fingerprint.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mm1_lab.config import Resources
from mm1_lab.formatting import first_line
from mm1_lab.train.progress import Progress, Report

PATIENCE = 6
"""Attempts of Ray to place all workers, ten minutes each; lost nodes may come back."""
FOLDER = "MM1_LAB_FOLDER"
"""The variable with the command's working folder, in processes of a Ray that started elsewhere."""


class Lost(Exception):
    """A worker's process died, perhaps with its node."""


def in_group(workers: int, resources: Resources, storage: Path, work: Callable[[Report], None], report: Report) -> None:
    """Runs `work` in every worker's process and relays the first worker's progress. `storage` is for Ray's own files.
    Raises what a worker or `report` raised, or Lost if a worker died."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Empty, Queue

    news = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        partial(_worker, work, news, resources.gpus > 0),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
        ),
        run_config=RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(storage),
            failure_config=FailureConfig(0, controller_failure_limit=PATIENCE, max_preemption_failures=0),
        ),
    )
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(trainer.fit)
        try:
            while not (training.done() and news.empty()):
                with suppress(Empty):
                    report(Progress(**news.get(timeout=1)))
        except BaseException:  # such as a lost lease: without the queue the group ends with its next report
            news.shutdown(force=True)
            raise
    try:
        training.result()
    except WorkerGroupError as error:
        first = min(error.worker_failures.values(), key=_tells_of_a_death)
        if _tells_of_a_death(first):
            raise Lost(f"a worker died: killed, out of memory, or with its node ({first_line(first)})") from error
        raise first from error
    finally:
        news.shutdown()


def _tells_of_a_death(error: Exception) -> bool:
    """Whether the error is Ray's, or one of communication, as when another worker has died."""
    return type(error).__module__.startswith(("ray.", "torch.distributed")) or "gloo" in str(error)


def enter_folder() -> None:
    """Goes to the command's working folder, to which paths in the environment and in users' code may be relative."""
    with suppress(KeyError):
        os.chdir(os.environ[FOLDER])


def _worker(work: Callable[[Report], None], news: Any, gpu: bool) -> None:
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    enter_folder()
    if gpu:
        torch.cuda.set_device(get_device())
    first = get_context().get_world_rank() == 0
    work(lambda progress: news.put(asdict(progress)) if first else None)
