"""The whole runner with Ray, on work that takes no time: what fails, dies, waits and is reused."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import DecoderStage, RequestError
from mm1_lab.orchestrate.plan import Unit, make_plan
from mm1_lab.orchestrate.request import load_request
from mm1_lab.orchestrate.runner import run_plan
from mm1_lab.orchestrate.worker import Site, StageReport, run_unit
from mm1_lab.train.progress import Progress


def work(unit: Unit, recipe: dict[str, Any], site: Site, report: StageReport) -> None:
    """Marks stages as done; the arms `captions` and seed 1's decoder fail, `blind` dies once."""
    ledger = site.ledger
    name = unit.names[0]
    attempt = ledger.store / "attempts" / f"{unit.key}.{os.getpid()}.{threading.get_native_id()}"
    attempt.parent.mkdir(parents=True, exist_ok=True)
    attempt.touch()
    report(unit.kind, Progress(1, 1))
    if name.startswith("blind") and len(list(attempt.parent.glob(f"{unit.key}.*"))) == 1:
        os._exit(1)
    if name.startswith("captions") or (isinstance(unit.stages[0], DecoderStage) and unit.stages[0].seed == 1):
        log = ledger.failure_file(unit.key, "log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Traceback\nDiverged: the loss is nan", encoding="utf-8")
        raise ArithmeticError("the loss is nan")
    if unit.kind == "trial":
        ledger.write_scores(unit.key, [], [], [], {"recipe": recipe}, None)
    else:
        time.sleep(0.5)
        ledger.begin_stage(unit.key)
        ledger.finish_stage(unit.key)


class Witness:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, unit: Unit) -> None:
        self.events.append(("started", unit.label))

    def progress(self, unit: Unit, kind: str, progress: Progress) -> None:
        self.events.append(("progress", unit.label))

    def finished(self, unit: Unit) -> None:
        self.events.append(("finished", unit.label))

    def failed(self, unit: Unit, reason: str, again: bool) -> None:
        self.events.append(("again" if again else "failed", f"{unit.label}: {reason}"))

    def tick(self) -> None:
        pass


@pytest.mark.slow
def test_failures_are_retried_then_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    only = ("base", "captions", "blind", "no-vecap")
    request = load_request("data_mix", "smoke", "2", only, (), None, tmp_path / "results", tmp_path / "store")
    ledger = request.ledger
    plan = make_plan(request.trials, ledger)
    witness = Witness()
    site = Site(ledger.results, ledger.store, None, request.scale)
    result = run_plan(plan, site, [witness], None, tmp_path / "ray", work)

    label = {unit.key: unit.label for unit in plan.units.values()}
    decoder = "decoder for base / seed 1 and 3 more"
    assert {label[key] for key in result.failed} == {"captions / seed 0", decoder}
    assert {label[key] for key in result.blocked} == {f"{arm} / seed 1" for arm in only}
    scored = {trial.name for trial in request.trials if ledger.has_scores(trial.fingerprint)}
    assert scored == {"base / seed 0", "blind / seed 0", "no-vecap / seed 0"}
    for key, reason in result.failed.items():
        failure = ledger.failure(key)
        assert failure is not None and reason == failure["reason"] == "Diverged: the loss is nan"
        assert failure["attempts"] == 2 and Path(failure["log"]).exists()
    assert sorted(path.stem for path in (ledger.results / "failures").glob("*.json")) == sorted(result.failed)
    base = next(trial for trial in request.trials if trial.name == "base / seed 0")
    assert ledger.record(base.fingerprint)["recipe"] == base.recipe.model_dump(mode="json")

    events = witness.events
    assert [event for event, _ in events].count("again") == 3, "captions, the decoder, and blind, which died"
    assert any(event == "again" and "blind / seed 0: its process ended" in text for event, text in events)
    assert ("started", "base / seed 1") not in events, "it only stood by"
    for shared in ("encoder", "decoder"):
        end = events.index(("finished", f"{shared} for base / seed 0 and 3 more"))
        assert end < events.index(("started", "base / seed 0"))
    assert not list((tmp_path / "ray").glob("scratch-*"))


def test_a_machine_that_lacks_what_a_stage_needs_is_refused(tmp_path: Path) -> None:
    request = load_request(
        "data_mix", "smoke", "1", (), ("resources.cpus=4096",), None, tmp_path / "results", tmp_path / "store"
    )
    site = Site(request.ledger.results, request.ledger.store, None, request.scale)
    with pytest.raises(RequestError, match="a stage needs 4096 CPUs"):
        run_plan(make_plan(request.trials, request.ledger), site, [], None, tmp_path / "ray", run_unit)
