import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mm1_lab.orchestrate.execution.worklist import MOST_LOSSES, Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results import Ledger

DONE, FAILED, LOST = Outcome(), Outcome("failed", "bad luck"), Outcome("lost", "its node was lost")


def task(key: str, *needs: str) -> Task:
    return Task(key, (), needs, ())


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., WorkList]:
    def make(tasks: list[Task], retries: int = 0) -> WorkList:
        return WorkList({t.key: t for t in tasks}, lambda stage: 0.0, retries, Ledger(tmp_path))

    return make


@pytest.fixture(autouse=True)
def _labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "label", "a task")


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


def test_a_failure_that_cannot_be_recorded_ends_like_any_other(make: Callable[..., WorkList], tmp_path: Path) -> None:
    """As on a full disk; Tune would print tracebacks of what is raised here."""
    work = make([task("a")])
    take(work)
    (tmp_path / "failures").touch()  # where a folder is to be made
    assert not settle(work, "a", FAILED)
    assert work.failed == {"a": FAILED}


def test_what_lacked_memory_is_not_tried_again(make: Callable[..., WorkList]) -> None:
    work = make([task("a"), task("needs a", "a"), task("needs that", "needs a")], retries=3)
    outcome = Outcome("out of memory", "12 GB")
    take(work)
    assert not settle(work, "a", outcome)
    assert work.exhausted and work.failed == {"a": outcome} and set(work.blocked.values()) == {"a"}


def test_a_lost_node_costs_no_retry_but_not_without_end(make: Callable[..., WorkList]) -> None:
    work = make([task("a"), task("b", "a")], retries=0)
    for _ in range(MOST_LOSSES):
        assert take(work) == "a"
        assert settle(work, "a", LOST)
    assert take(work) == "a" and work.attempts["a"] == 1
    assert not settle(work, "a", LOST)
    assert work.failed == {"a": LOST} and work.blocked == {"b": "a"}


def test_something_always_runs_until_nothing_is_left(make: Callable[..., WorkList]) -> None:
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
