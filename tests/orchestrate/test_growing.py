"""Seeds are added look by look."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mm1_lab.orchestrate import sweeping
from mm1_lab.orchestrate.execution.executor import Executor, Inline
from mm1_lab.orchestrate.planning.plan import Plan, make_plan
from mm1_lab.orchestrate.planning.request import Request, load_request
from mm1_lab.orchestrate.sweeping import Draw, run_until_decided


def test_a_repeated_study_judges_each_look_by_its_seeds_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three arms one stays after the first look; of the others, one has all its trials from an earlier command."""
    arms = ("base", "captions", "interleaved")
    loaded = load_request("data_mix", "smoke", "3,5,6,8", arms, (), None, tmp_path / "results", tmp_path / "store")
    request = replace(loaded, looks=(2, 3, 4))
    ledger = request.ledger

    def complete(request: Request, executor: Executor, draw: Draw) -> tuple[Plan, None]:
        for trial in request.trials:
            ledger.write_scores(trial.fingerprint, [], [], {}, None)
        return make_plan(request.trials, ledger), None

    judged: list[list[int]] = []

    def judge(folder: Path, seeds: Sequence[int]) -> tuple[list[str], list[str]]:
        judged.append(list(seeds))
        return ["a lesson: open"], ["base"]

    monkeypatch.setattr(sweeping, "complete", complete)
    monkeypatch.setattr(sweeping, "show", lambda *given: None)
    for trial in request.trials:
        if trial.arm == "captions":
            ledger.write_scores(trial.fingerprint, [], [], {}, None)
    outputs = []
    for _ in range(2):
        assert run_until_decided(request, Inline(), lambda _: [], judge, lambda _: "") == 0
        outputs.append(capsys.readouterr().out)
    assert judged == 2 * [[3, 5], [3, 5, 6], [3, 5, 6, 8]]
    assert outputs[0] == outputs[1]
    assert outputs[0].endswith("2 trials of 12 not run: not needed.\n")
