"""Work that takes no time, in a module that imports little: each of Ray's processes imports it."""

import os
import threading
from dataclasses import dataclass

from mm1_lab.config import DecoderStage
from mm1_lab.orchestrate.execution.worker import StageReport, Worker
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.train.progress import Diverged, Progress
from tests.orchestrate.conftest import mark_done


@dataclass(frozen=True)
class Marker(Worker):
    """Marks stages as done; the arm `captions` diverges, seed 1's decoder fails, `blind` dies once if it may."""

    dies: bool = False

    def run(self, task: Task, report: StageReport) -> None:
        ledger = self.ledger
        attempt = ledger.store / "attempts" / f"{task.key}.{os.getpid()}.{threading.get_native_id()}"
        attempt.parent.mkdir(parents=True, exist_ok=True)
        attempt.touch()
        report(task.kind, Progress(1, 1))
        arm, stage = task.trials[0].arm, task.stages[0]
        if arm == "blind" and self.dies and len(list(attempt.parent.glob(f"{task.key}.*"))) == 1:
            os._exit(1)
        if arm == "captions":
            raise Diverged("the loss of step 3 is nan")
        if isinstance(stage, DecoderStage) and stage.seed == 1:
            raise ArithmeticError("out of luck")
        mark_done(ledger, task.key, task.kind == "trial")
