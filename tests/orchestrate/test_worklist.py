"""What runs when, and what is told of it."""

import io
import random
from collections.abc import Callable
from functools import partial

import pytest

from mm1_lab.orchestrate.execution.display import Display
from mm1_lab.orchestrate.execution.worklist import MOST_LOSSES, Outcome, WorkList
from mm1_lab.orchestrate.planning.cost import stage_seconds
from mm1_lab.orchestrate.planning.plan import Task, make_plan
from mm1_lab.results import Ledger
from mm1_lab.train.progress import Progress


@pytest.fixture
def work_list(ask) -> WorkList:
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
def display(work_list) -> Shown:
    display = Shown(work_list, io.StringIO())
    display.clock = lambda: display.now
    display.begun = 0.0
    work_list.observers.append(display)
    return display


def start(work_list: WorkList, task: Task) -> None:
    work_list.take(task)
    work_list.started(task)


def end(work_list: WorkList, task: Task, kind: str = "done") -> None:
    work_list.settle(task, Outcome(kind, "out of luck"))


def test_when_a_disk_is_full_those_that_run_end_and_no_other_begins(work_list):
    first, second = list(work_list.ready())[:2]
    for task in (first, second):
        start(work_list, task)
    end(work_list, first, "disk full")
    assert not list(work_list.ready()) and not work_list.exhausted
    end(work_list, second)
    assert work_list.exhausted and work_list.full and not work_list.failed


def test_time_left_follows_from_the_speed_so_far(work_list, display):
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
    display.before, display.trials = 4, 7
    assert display.so_far() == "6 of 7 trials, 1 failed", "as the first line of the run counts"


def test_what_was_done_before_does_not_count_as_speed(work_list, display):
    task = next(work_list.ready())
    work_list.ledger.partial_folder(task.key).mkdir(parents=True)
    start(work_list, task)
    work_list.progress(task, task.kind, Progress(0, 0))
    work_list.progress(task, task.kind, Progress(900, 1000))
    display.now = 300.0
    work_list.progress(task, task.kind, Progress(950, 1000))
    own, whole = display.costs[task.key], sum(display.costs.values())
    assert display.seconds_left() == pytest.approx(300.0 * (whole - 0.95 * own) / (0.05 * own))
    end(work_list, task)
    assert display.seconds_left() == pytest.approx(300.0 * (whole - own) / (0.1 * own))
    other = next(work_list.ready())
    work_list.ledger.partial_folder(other.key).mkdir()
    start(work_list, other)
    work_list.progress(other, other.kind, Progress(900, 1000))
    left = whole - own - 0.9 * display.costs[other.key]
    assert display.seconds_left() == pytest.approx(300.0 * left / (0.1 * own))


def test_time_left_does_not_follow_from_the_start_and_first_steps(work_list, display):
    task = next(work_list.ready())
    start(work_list, task)
    own, whole = display.costs[task.key], sum(display.costs.values())
    steps = round(1000 * own / whole)  # a thousandth of the work each
    for display.now, step in ((60.0, 1), (90.0, 2)):
        work_list.progress(task, task.kind, Progress(step, steps))
        assert not display.seconds_left()
    display.now = 160.0
    work_list.progress(task, task.kind, Progress(41, steps))
    assert display.seconds_left() == pytest.approx(100.0 * (1000 - 41) / 40, rel=0.02)


def test_lines_tell_what_starts_runs_and_ends(work_list, display):
    *shared, task, other, _ = [work_list.tasks[key] for key in work_list.waiting]
    for needed in shared:
        work_list.take(needed)
        work_list.settle(needed, Outcome(), elsewhere=True)
    start(work_list, task)
    work_list.progress(task, "multimodal", Progress(1, 6, 5.0, 100.0, note="a page is too long"))
    display.now = 9.0
    work_list.progress(task, "multimodal", Progress(2, 6, 4.5, 1234.0))
    display.told[task.key] = -30.0
    work_list.progress(task, "multimodal", Progress(3, 6, 4.321, 1234.0))
    end(work_list, task, "failed")
    start(work_list, task)
    end(work_list, task)
    start(work_list, other)
    end(work_list, other, "diverged")
    assert display.out.getvalue().splitlines() == [
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


def test_all_of_a_long_reason_is_told_once(work_list, display):
    task = work_list.tasks[work_list.waiting[0]]
    reason = f"a picture is broken; {'another is; ' * 99}"
    for again in (True, False):
        display.failed(task, Outcome("failed", reason), again)
    first, last = display.out.getvalue().splitlines()
    assert first == f"failed    {task.label}: {reason[:200]} … (will retry)"
    assert last == f"failed    {task.label}: {reason}"


DONE, FAILED, LOST = Outcome(), Outcome("failed", "bad luck"), Outcome("lost", "its node was lost")


def task(key: str, *needs: str) -> Task:
    return Task(key, (), needs, ())


@pytest.fixture
def make(tmp_path, monkeypatch) -> Callable[..., WorkList]:
    monkeypatch.setattr(Task, "label", "a task")

    def make(tasks: list[Task], retries: int = 0) -> WorkList:
        return WorkList({t.key: t for t in tasks}, lambda stage: 0.0, retries, Ledger(tmp_path))

    return make


def take(work: WorkList) -> str | None:
    task = next(work.ready(), None)
    if task is None:
        return None
    work.take(task)
    return task.key


def settle(work: WorkList, key: str, outcome: Outcome) -> bool:
    """Returns whether it is tried again."""
    work.settle(work.tasks[key], outcome)
    return key in work.waiting


def test_a_failure_that_cannot_be_recorded_ends_like_any_other(make, tmp_path):
    """As on a full disk; Tune would print tracebacks of what is raised here."""
    work = make([task("a")])
    take(work)
    (tmp_path / "failures").touch()  # where a folder is to be made
    assert not settle(work, "a", FAILED)
    assert work.failed == {"a": FAILED}


def test_a_lost_node_costs_no_retry_but_not_without_end_and_what_lacked_memory_is_not_tried_again(make):
    work = make([task("a"), task("b", "a")], retries=0)
    for _ in range(MOST_LOSSES):
        assert take(work) == "a"
        assert settle(work, "a", LOST)
    assert take(work) == "a" and work.attempts["a"] == 1
    assert not settle(work, "a", LOST)
    assert work.failed == {"a": LOST} and work.blocked == {"b": "a"}
    work = make([task("a"), task("needs a", "a"), task("needs that", "needs a")], retries=3)
    outcome = Outcome("out of memory", "12 GB")
    take(work)
    assert not settle(work, "a", outcome)
    assert work.exhausted and work.failed == {"a": outcome} and set(work.blocked.values()) == {"a"}
    assert work.ledger.failures()["a"]["blocks"] == ["needs a", "needs that"]


def test_something_always_runs_until_nothing_is_left(make):
    generator = random.Random(0)
    for _ in range(200):
        count = generator.randint(1, 12)
        tasks = [task(str(n), *(str(m) for m in range(n) if generator.random() < 0.3)) for n in range(count)]
        generator.shuffle(tasks)
        work = make(tasks, retries=1)
        while not work.exhausted:
            while len(work.running) < 3 and take(work):
                pass
            assert work.running, "Tune would wait for ever"
            assert all(work.done.issuperset(work.tasks[key].needs) for key in work.running)
            settle(work, generator.choice(sorted(work.running)), FAILED if generator.random() < 0.3 else DONE)
        ended = work.done | set(work.failed) | set(work.blocked)
        assert ended == set(work.tasks)
        assert all(work.done.issuperset(work.tasks[key].needs) for key in work.done)
