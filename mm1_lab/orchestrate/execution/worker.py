"""Runs one task in a process: trains its missing stages, evaluates, and writes results to the ledger.

Processes are reused if stages are short, so all global state that a stage may have changed is reset before the next.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from operator import call
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import ALLOWED, SECTIONS, OwnConnectors, RequestError, Resources, Scale, Shape, Stage, Trial
from mm1_lab.files import PACKAGE, load_json, write_json, write_text
from mm1_lab.orchestrate.execution.groups import Lost, in_group
from mm1_lab.orchestrate.execution.worklist import Outcome, full_disk_line
from mm1_lab.orchestrate.planning.plan import Fitted, Task
from mm1_lab.results import Ledger, ScoreRow
from mm1_lab.results.earlier import Earlier
from mm1_lab.results.leases import LeaseLost
from mm1_lab.results.schema import CURVES
from mm1_lab.train.progress import Diverged, Progress, Report, TimeUp
from mm1_lab.version import __version__

if TYPE_CHECKING:
    from mm1_lab.data.types import Data
    from mm1_lab.evaluate.run import Evaluation

StageReport = Callable[[str, Progress], None]
"""Called with the name of the stage and its progress."""
Run = Callable[[Callable[[Report], None], Report], None]
"""Runs a function, in this process or in others, and relays what it reports."""


class GpuFailed(Exception):
    """CUDA refuses whatever else this process asks: the next task would fail, too."""


@dataclass(frozen=True)
class Worker:
    """Runs tasks in a process, which gets a copy of it: the ledger, the data, the scale."""

    ledger: Ledger
    data_path: Path | None
    scale: Scale
    tokenizer: Path | None = None
    """The folder of a pre-trained decoder whose tokenizer the data use."""
    commit: str | None = None
    """The repository's commit when the command started."""
    fitted: Fitted = field(default_factory=dict)
    earlier: Mapping[str, Earlier] = field(default_factory=dict)
    """Those of the plan."""
    connectors: OwnConnectors | None = None
    """The user's own, which the process that computes may run."""
    groups: Path | None = None
    """The folder for Ray Train's files; None if every stage runs in one process, whatever the scale's `workers`."""

    def attempt(self, task: Task, report: StageReport) -> Outcome:
        """Runs the task and returns how it ended; writes a traceback to the failure's log.

        The caller holds a lease on the task. Raises TimeUp if `report` does; GpuFailed.
        """
        try:
            self.run(task, report)
            return Outcome()
        except TimeUp:
            raise
        except (Lost, LeaseLost) as error:
            return Outcome("lost", str(error))
        except Exception as error:
            import torch

            raised = traceback.format_exc()
            # libraries name no file, and Lightning's clean-up fails in its turn
            told = "\n".join(f"{type(one).__name__}: {one}" for one in (error, error.__context__))
            if full := full_disk_line(told, f"{self.ledger.store} or {self.ledger.results}", raised):
                return Outcome("disk full", full)
            log = self.ledger.failure_file(task.key, "log")
            with contextlib.suppress(OSError):
                write_text(log, raised)
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            if isinstance(error, torch.AcceleratorError) and "out of memory" not in reason:  # CUDA goes on after that
                raise GpuFailed(reason) from error
            if isinstance(error, Diverged):
                return Outcome("diverged", str(error))
            if isinstance(error, MemoryError | torch.OutOfMemoryError):
                remedy = "resources.micro_batch=1, resources.gradient_checkpointing=true, a smaller batch_size"
                remedy += ", or, of several `workers` that evaluate, more resources.evaluation_shards"
                return Outcome("out of memory", f"{reason}; take {remedy} (--set)")
            return Outcome("failed", reason)

    def run(self, task: Task, report: StageReport) -> None:
        """Runs the task's stages, except those that another command has finished meanwhile."""
        if self.groups and not (shared := self.groups.parent).exists():  # nodes may join after `check_nodes`
            text = f"this node ({platform.node()}) does not see {shared}; mount the store there, or take the node out"
            raise RequestError(text)
        groups = self.groups
        if groups and all(stage.workers(self.scale) == 1 for stage in task.stages):
            groups = None
        for stage in task.stages:
            report_stage = partial(report, stage.name)
            do: Run = call  # in this process
            if groups:  # it computes nothing itself
                do = partial(in_group, stage.workers(self.scale), self.scale.resources, groups)
            report_stage(Progress(0, 0))
            if stage.TRAINS:
                self._train(stage, report_stage, do)
            elif not self.ledger.has_scores(stage.fingerprint):
                do(partial(self._score, task.trials), report_stage)
            self.ledger.clear_failure(stage.fingerprint)  # perhaps of a command in which it was a task of its own

    def _train(self, stage: Stage, report: Report, run: Run) -> None:
        ledger = self.ledger
        folder = ledger.begin_stage(stage.fingerprint)
        if folder is None:
            return
        fresh = not any(folder.iterdir())
        started = time.monotonic()
        inputs = {name: ledger.weights(needed.fingerprint) for name, needed in stage.inputs.items()}
        try:
            run(partial(self._run_stage, stage, folder, inputs), report)
        except Diverged as error:
            from mm1_lab.train.checkpoints import CHECKPOINT, DIVERGED, remove_all

            # on GPUs chance or a fault of one of many may be the reason
            if self.scale.resources.gpus and (folder / CHECKPOINT).exists() and not (folder / DIVERGED).exists():
                (folder / DIVERGED).touch()
                raise RuntimeError(f"{error}; once more from its last checkpoint") from error
            remove_all(folder)  # nothing resumes from them, which are large
            raise
        if fresh and stage.flops() > 0:
            write_json(folder / "timings.json", {stage.name: _timing(stage, started)})
        ledger.finish_stage(stage.fingerprint)

    def _run_stage(self, stage: Stage, folder: Path, inputs: Mapping[str, Path], report: Report) -> None:
        from mm1_lab.train.stages import run_stage

        self._reset_process(stage.seed)
        run_stage(stage, folder, inputs, self._data(stage), report, self._resources(stage))

    def _resources(self, stage: Stage) -> Resources:
        return self.scale.resources.model_copy(update=self.fitted.get(stage.fingerprint, {}))

    def _reset_process(self, seed: int) -> None:
        """Seeds and resets all global state that an earlier stage may have changed in this process, and lets it run the
        user's own connectors."""
        import random

        import numpy as np
        import torch

        from mm1_lab import team

        if self.scale.resources.gpus:  # Lightning's objects, which refer to each other, hold an earlier stage's moments
            gc.collect()
        team.allow_gpu(self.scale.resources.gpus > 0)
        team.check_gpu()
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)  # with a default device, every torch call would go through Python
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
        for backend in (torch.backends, torch.backends.cudnn):  # of which a notebook's setting would come through
            backend.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = False  # by default GPUs round what enters a convolution
        torch.set_num_threads(max(1, int(self.scale.resources.cpus)))
        if self.connectors:
            ALLOWED[self.connectors.digest] = self.connectors

    def _data(self, stage: Stage) -> Data:
        scale, identity = self.scale.model_dump_json(), stage.data.model_dump_json()
        return _open_data(self.data_path, self.ledger.data_cache, scale, self.tokenizer, stage.data.pictures, identity)

    def _score(self, trials: Sequence[Trial], report: Report) -> None:
        """Evaluates what all these trials share, as they have one recipe and seed; in a team the first process
        writes."""
        from mm1_lab import team
        from mm1_lab.evaluate.run import evaluate

        stage = trials[0].evaluation
        self._reset_process(stage.seed)
        ledger = self.ledger
        started = time.monotonic()
        model = ledger.weights(stage.model.fingerprint)
        shards = (team.size() > 1 and self._resources(stage).evaluation_shards) or 1
        before = None
        if earlier := self.earlier.get(stage.fingerprint):  # the first process decides: all must ask the same
            before = team.collect(self._before(earlier) if team.is_first() else None)[0]
        evaluation = evaluate(stage, model, self._data(stage), report, ledger.data_cache, shards, before)
        for source, loss in evaluation.held_out_loss.items():
            if not math.isfinite(loss):  # the last step's update was not, which no further loss has told
                rate = f"{SECTIONS.get(stage.model.name, '')}learning_rate"
                raise Diverged(f"after training the loss on {source} is {loss}; lower {rate}")
        if not team.is_first():
            return
        timings = {stage.KIND: _timing(stage, started)}
        taken = {}
        if earlier and before:
            names = {row.benchmark for row in before.scores} & {row.benchmark for row in evaluation.scores}
            taken["taken_over"] = {"fingerprint": earlier.fingerprint, "benchmarks": sorted(names)}
            # with what the same answers took then, as tables tell what a trial costs
            then = ledger.record(earlier.fingerprint)["timings"][stage.KIND]
            timings[stage.KIND]["seconds"] += then["seconds"] * (1 - earlier.share) * stage.flops() / then["flops"]
        curves = {}
        for name, trained in stage.with_curves.items():
            if not ledger.has_intact_weights(trained.fingerprint):  # of an alignment they may have been deleted
                continue
            folder = ledger.stage_folder(trained.fingerprint)
            curves[CURVES[name]] = folder / "training.csv"
            if (folder / "timings.json").exists():
                timings |= load_json(folder / "timings.json")
        # of the stages that a score depends on; of several of a name the nearest
        chain = {needed.name: needed for needed in reversed(list(stage.chain()))}
        summaries = {}
        for name, needed in chain.items():
            if ledger.has_weights(needed.fingerprint):
                summaries[name] = ledger.summary(needed.fingerprint) | {"flops": needed.flops()}
        record = {
            "trials": [trial.name for trial in trials],
            "recipe": trials[0].recipe.model_dump(mode="json"),
            "config": stage.model_dump(mode="json"),
            "fingerprints": {name: needed.fingerprint for name, needed in chain.items()},
            "summaries": summaries,
            "majority": evaluation.majority,
            "majority_by_kind": evaluation.majority_by_kind,
            "held_out_left_out": evaluation.left_out,
            **taken,
            **({"benchmarks": evaluation.notes} if evaluation.notes else {}),
            "environment": environment(self.scale, self.commit),
            "timings": timings,
        }
        ledger.write_scores(stage.fingerprint, evaluation.scores, evaluation.held_out_loss, record, curves)

    def _before(self, earlier: Earlier) -> Evaluation | None:
        """What is to be taken over, unless it is damaged, or comes from another machine or other libraries: a record
        tells of one."""
        from mm1_lab.evaluate.run import Evaluation
        from mm1_lab.results.reading import held_out_losses
        from mm1_lab.results.score_file import read_score_table

        ledger = self.ledger
        if not ledger.has_intact_scores(earlier.fingerprint):
            return None
        record, now = ledger.record(earlier.fingerprint), environment(self.scale, self.commit)
        if any(record["environment"].get(key) != now[key] for key in ("processor", "threads", "versions")):
            return None
        folder = ledger.trial_folder(earlier.fingerprint)
        rows = read_score_table(folder)
        # further metrics are computed again from the same answers
        rows = rows[(rows["family"] != "further") & ~rows["benchmark"].isin(earlier.asked)]
        scores = [ScoreRow(*row) for row in rows.itertuples(index=False)]
        return Evaluation(scores, held_out_loss=held_out_losses(folder), left_out=record["held_out_left_out"])


@contextmanager
def settings_kept() -> Iterator[None]:
    """Gives random numbers and torch's settings, which stages reset, back to whoever calls the lab from Python: in a
    notebook all that is drawn after a run would be the same each time."""
    import random

    import numpy as np
    import torch

    device = torch.get_default_device()
    before: list[Callable[[], object]] = [
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(torch.set_default_dtype, torch.get_default_dtype()),
        partial(torch.set_default_device, None if device == torch.device("cpu") else device),
        partial(torch.set_grad_enabled, torch.is_grad_enabled()),
        partial(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode()),
        partial(torch.set_num_threads, torch.get_num_threads()),
    ]
    cudnn = torch.backends.cudnn
    with contextlib.suppress(RuntimeError):  # torch does not tell these if `fp32_precision` was set otherwise
        before.append(partial(setattr, cudnn, "allow_tf32", cudnn.allow_tf32))
    with contextlib.suppress(RuntimeError):
        before.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    for one in (torch.backends, cudnn, torch.backends.cuda.matmul):
        before.append(partial(setattr, one, "fp32_precision", one.fp32_precision))
    try:
        # what the caller may be in
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for give_back in before:
            give_back()


@lru_cache(maxsize=1)
def _open_data(
    path: Path | None, cache: Path, scale: str, tokenizer: Path | None, pictures: Shape | None, identity: str
) -> Data:
    """The data, opened once per process; `scale` and `identity` are JSON so that they can be cache keys."""
    from mm1_lab.data import open_data

    data = open_data(path, cache, Scale.model_validate_json(scale), tokenizer, pictures)
    if data.identity.model_dump_json() != identity:
        raise RequestError(f"{path}: the data changed while the sweep was running; run it again")
    return data


def _timing(stage: Stage, started: float) -> dict[str, float]:
    seconds = round(time.monotonic() - started, 3)
    return {"seconds": seconds, "flops": stage.flops(), "positions": stage.positions()}


def library_versions() -> dict[str, str]:
    """The versions of the libraries that scores depend on."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "lightning", "numpy")}


def environment(scale: Scale, commit: str | None) -> dict[str, Any]:
    """The machine and library versions that a score was computed with."""
    from mm1_lab import team

    return {
        "processor": team.processor(),
        "threads": max(1, int(scale.resources.cpus)),
        "python": platform.python_version(),
        "versions": library_versions(),
        "mm1_lab": __version__,  # apart: versions are compared between the arms of a contrast
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def repository_commit() -> str | None:
    """The commit of the repository that the package runs from, with `-dirty` if the package was changed since; None
    without a repository or `git`."""
    repository = PACKAGE.parent
    if not ((repository / ".git").exists() and shutil.which("git")):
        return None
    # also in a clone of another user, as in containers; its code runs already
    git = ["git", "-c", "safe.directory=*", "-C", os.fspath(repository)]
    head = [*git, "rev-parse", "--verify", "--quiet", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    changes = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", PACKAGE.name], capture_output=True, check=False)
    return f"{commit}-dirty" if commit and changes.returncode == 1 else commit or None
