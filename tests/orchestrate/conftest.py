"""Requests of `data_mix` at smoke, and what stands for training: scores that come from a formula."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import Trial
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Round
from mm1_lab.results import Ledger, ScoreRow

Ask = Callable[..., Request]


@pytest.fixture
def ask(tmp_path) -> Ask:
    """Gives a request for the arms that are named, whose results and weights have folders of their own."""

    def request(*only: str, sweep: str | Path = "data_mix", scale: str = "smoke", **more: Any) -> Request:
        return load_request(sweep, scale, only=only, results=tmp_path / "results", store=tmp_path / "store", **more)

    return request


def mark_done(ledger: Ledger, fingerprint: str, is_trial: bool = False, weights: bytes = b"weights") -> None:
    """A trial without scores, or a stage whose weights are only some bytes."""
    if is_trial:
        ledger.write_scores(fingerprint, [], {}, {}, {})
        return
    folder = ledger.begin_stage(fingerprint)
    assert folder is not None
    (folder / "model.safetensors").write_bytes(weights)
    ledger.finish_stage(fingerprint)


class Laboratory:
    """Stands for training; a subclass writes a trial's scores."""

    def __init__(self) -> None:
        self.rounds = []

    def complete(self, request: Request, executor: Executor, draw: Callable[[Path], object]) -> Round:
        request.write_manifest()
        plan = make_plan(request.trials, request.ledger)
        trials = [trial for trial in plan.trials if plan.stages[trial.fingerprint].state not in ("reused", "diverged")]
        self.rounds.append([trial.name for trial in trials])
        for trial in trials:
            self.run(request, trial)
        if any(request.ledger.has_scores(trial.fingerprint) for trial in plan.trials):
            draw(request.folder)
        return Round(request, plan, None)

    def run(self, request: Request, trial: Trial) -> None:
        raise NotImplementedError

    def diverge(self, request: Request, trial: Trial) -> None:
        request.ledger.record_failure(trial.fingerprint, trial.name, 1, "diverged", "the loss is nan")

    def write(
        self,
        request: Request,
        trial: Trial,
        score: float,
        losses: dict[str, float],
        shots: Any,
        family: Any = "vqa",
        **more: Any,
    ) -> None:
        """Eight questions at each number of shots have this score on average."""
        scores = []
        for block in range(8 * len(shots)):
            points = score + 3 * (block % 4) - 4.5
            asked = (shots[block // 8], block % 8, f"q{block % 8}", "colour")
            scores.append(ScoreRow("vqa", family, "vqa", *asked, points, "red", True))
        record = {"config": trial.evaluation.model_dump(mode="json"), "recipe": trial.recipe.model_dump(mode="json")}
        record |= {"fingerprints": {"evaluation": trial.fingerprint}, "summaries": {}} | more
        request.ledger.write_scores(trial.fingerprint, scores, losses, record, {})
