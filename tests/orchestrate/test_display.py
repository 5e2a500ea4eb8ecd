import io
from functools import partial

import pytest

from mm1_lab.orchestrate.execution.display import Display
from mm1_lab.orchestrate.execution.worklist import Outcome, WorkList
from mm1_lab.orchestrate.planning.cost import stage_seconds
from mm1_lab.orchestrate.planning.plan import Task, make_plan
from mm1_lab.train.progress import Progress
from tests.orchestrate.conftest import Ask


@pytest.fixture
def work_list(ask: Ask) -> WorkList:
    """Of two stages and three trials that need them."""
    request = ask("base", "captions", "blind")
    plan = make_plan(request.trials, request.ledger)
    return WorkList(plan.tasks, partial(stage_seconds, slowness={}), 1, request.ledger)


class Shown(Display):
    """By a clock that stands until it is set."""

    now = 0.0

    def headline(self, task: Task) -> str:
        return "8-shot 41.2"


@pytest.fixture
def display(work_list: WorkList) -> Shown:
    display = Shown(work_list, io.StringIO())
    display.clock = lambda: display.now
    display.begun = 0.0
    work_list.observers.append(display)
    return display


def start(work_list: WorkList, task: Task) -> None:
    work_list.take(task)
    work_list.started(task)


def end(work_list: WorkList, task: Task, kind: str = "done") -> None:
    work_list.settle(task, Outcome(kind, "out of luck"))  # type: ignore[arg-type]


def test_time_left_follows_from_the_speed_so_far(work_list: WorkList, display: Shown) -> None:
    trials = [task for task in work_list.tasks.values() if task.kind == "trial"]
    shared = [task for task in work_list.tasks.values() if task.kind != "trial"]
    first, second, third = trials
    for task in shared:
        start(work_list, task)
        end(work_list, task)
    assert not display.seconds_left(), "nothing to go by"
    start(work_list, first)
    display.now = 100.0
    end(work_list, first)
    left = display.costs[second.key] + display.costs[third.key]
    whole = sum(display.costs.values())
    assert display.seconds_left() == pytest.approx(100.0 * left / (whole - left))
    start(work_list, second)
    work_list.progress(second, "multimodal", Progress(3, 6))
    left -= 0.5 * work_list.seconds(second.stages[0])
    assert display.seconds_left() == pytest.approx(100.0 * left / (whole - left))
    end(work_list, second)
    start(work_list, third)
    end(work_list, third, "diverged")
    assert not display.seconds_left() and display.so_far() == "2 of 3 trials, 1 failed"


def test_what_was_done_before_does_not_count_as_speed(work_list: WorkList, display: Shown) -> None:
    task = next(work_list.ready())
    work_list.ledger.partial_folder(task.key).mkdir(parents=True)
    start(work_list, task)
    work_list.progress(task, task.kind, Progress(0, 0))
    work_list.progress(task, task.kind, Progress(900, 1000))
    display.now = 100.0
    work_list.progress(task, task.kind, Progress(950, 1000))
    own, whole = display.costs[task.key], sum(display.costs.values())
    assert display.seconds_left() == pytest.approx(100.0 * (whole - 0.95 * own) / (0.05 * own))
    end(work_list, task)
    assert display.seconds_left() == pytest.approx(100.0 * (whole - own) / (0.1 * own))


def test_lines_tell_what_starts_runs_and_ends(work_list: WorkList, display: Shown) -> None:
    *shared, task, other, _ = [work_list.tasks[key] for key in work_list.waiting]
    for needed in shared:
        work_list.take(needed)
        work_list.settle(needed, Outcome(), elsewhere=True)
    start(work_list, task)
    work_list.progress(task, "multimodal", Progress(1, 6, {"loss": 5.0}, 100.0, note="a page is too long"))
    display.now = 9.0
    work_list.progress(task, "multimodal", Progress(2, 6, {"loss": 4.5}, 1234.0))
    display.told[task.key] = -30.0
    work_list.progress(task, "multimodal", Progress(3, 6, {"loss": 4.321}, 1234.0))
    end(work_list, task, "failed")
    start(work_list, task)
    end(work_list, task)
    start(work_list, other)
    end(work_list, other, "diverged")
    assert display.out.getvalue().splitlines() == [  # type: ignore[attr-defined]
        *(f"done      {needed.label} by another command (0 of 3 trials)" for needed in shared),
        f"starts    {task.label}",
        f"note      {task.label}: a page is too long",
        f"runs      {task.label}: multimodal 3/6, loss 4.321, 1,234 tokens/s (0 of 3 trials)",
        f"failed    {task.label}: out of luck (will retry)",
        f"starts    {task.label}",
        f"done      {task.label} in 0 s (1 of 3 trials): 8-shot 41.2",
        f"starts    {other.label}",
        f"diverged  {other.label}: out of luck",
    ]
