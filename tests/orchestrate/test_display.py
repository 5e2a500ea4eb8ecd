import io
import re

import pytest

from mm1_lab.config import Trial
from mm1_lab.formatting import duration
from mm1_lab.orchestrate.execution.display import LineDisplay, make_display
from mm1_lab.orchestrate.execution.worklist import Outcome
from mm1_lab.orchestrate.planning.cost import Speeds
from mm1_lab.orchestrate.planning.plan import Plan, make_plan
from mm1_lab.orchestrate.planning.request import load_request
from mm1_lab.train.progress import Progress


@pytest.fixture
def plan(tmp_path) -> Plan:  # type: ignore[no-untyped-def]
    only = ("base", "captions", "blind")
    request = load_request("data_mix", "smoke", "1", only, (), None, tmp_path / "results", tmp_path / "store")
    trials: tuple[Trial, ...] = request.trials
    return make_plan(trials, request.ledger)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_follows_from_the_speed_so_far(plan: Plan) -> None:
    clock = Clock()
    state = LineDisplay(plan, Speeds(), lambda task: "", io.StringIO())
    state.clock, state.begun = clock, 0.0
    costs = {key: sum(by_kind.values()) for key, by_kind in state.costs.items()}
    first, second, third = (task for task in plan.tasks.values() if task.kind == "trial")
    for task in plan.tasks.values():
        if task.kind != "trial":
            state.start(task)
            state.end(task)
    assert not state.left(), "nothing to go by"
    state.start(first)
    clock.now = 100.0
    state.end(first)
    left = 100.0 * (costs[second.key] + costs[third.key]) / (sum(costs.values()) - costs[second.key] - costs[third.key])
    assert state.left() == f"about {duration(left)} left"
    state.start(second)
    state.running[second.key].kind, state.running[second.key].progress = "multimodal", Progress(3, 6)
    inside = state.costs[second.key]
    assert state.share(second.key) == pytest.approx(0.5 * inside["multimodal"] / sum(inside.values()))
    state.end(second)
    state.start(third)
    state.end(third, failed=True)
    assert not state.left() and state.counted() == "2 of 3 trials"


def test_lines_where_there_is_no_terminal(plan: Plan) -> None:
    out = io.StringIO()
    display = make_display(plan, Speeds(), lambda task: "8-shot 41.2", out)
    task = next(task for task in plan.tasks.values() if task.kind == "trial")
    display.started(task)
    display.progress(task, "multimodal", Progress(1, 6, {"loss": 5.0}, 100.0))
    display.tick()
    display.failed(task, Outcome("failed", "out of luck"), again=True)
    display.started(task)
    display.failed(task, Outcome("diverged", "loss is nan"), again=False)
    display.started(task)
    display.finished(task)
    display.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "starts    base / seed 0" and lines[1] == "failed    base / seed 0: out of luck (will retry)"
    assert lines[3] == "diverged  base / seed 0: loss is nan"
    assert lines[5].startswith("done      base / seed 0 in 0 s (1 of 3 trials") and lines[5].endswith(": 8-shot 41.2")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_bars_show_step_loss_and_speed_and_lines_what_ended(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    display = make_display(plan, Speeds(), lambda task: "8-shot 41.2", out)
    running, failing = (task for task in plan.tasks.values() if task.kind == "trial" and task.trials[0].arm != "blind")
    display.started(running)
    display.progress(running, "multimodal", Progress(3, 6, {"loss": 4.321}, 1234.0))
    display.started(failing)
    display.failed(failing, Outcome("diverged", "loss is nan"), again=False)
    monkeypatch.setattr("mm1_lab.orchestrate.execution.display.REFRESH_SECONDS", 0.0)
    display.tick()
    drawn = out.getvalue()
    for expected in ("0 of 3 trials, 1 failed", "base / seed 0", "multimodal 3/6, loss 4.321, 1,234 tokens/s"):
        assert expected in drawn
    display.finished(running)
    display.close()
    ended = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for line in ("diverged  captions / seed 0: loss is nan", "(1 of 3 trials", ": 8-shot 41.2"):
        assert line in ended
    last = out.getvalue()[len(drawn) :]
    assert "\x1b[2K" in last and "\x1b[?25h" in last, "the bars are gone, and the cursor is back"


def test_what_a_failure_blocks_takes_no_time(plan: Plan) -> None:
    clock = Clock()
    state = LineDisplay(plan, Speeds(), lambda task: "", io.StringIO())
    state.clock, state.begun = clock, 0.0
    first, *others = (task for task in plan.tasks.values() if task.kind != "trial")
    state.start(first)
    clock.now = 100.0
    state.end(first, failed=True)
    for task in others:
        state.start(task)
        state.end(task)
    assert all(first.key in task.needs for task in plan.tasks.values() if task.kind == "trial")
    assert not state.left()
