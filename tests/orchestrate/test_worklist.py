import random
from pathlib import Path

import pytest

from mm1_lab.orchestrate.execution.worklist import MOST_LOSSES, Execution, Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results import Ledger

DONE, FAILED, LOST = Outcome(), Outcome("failed", "bad luck"), Outcome("lost", "its node was lost")


def task(key: str, *needs: str) -> Task:
    return Task(key, (), needs, ())


def work_list(tasks: list[Task], retries: int = 0) -> WorkList:
    priority = {t.key: float(len(tasks) - place) for place, t in enumerate(tasks)}
    return WorkList({t.key: t for t in tasks}, priority, retries)


def take(work: WorkList) -> str | None:
    taken = work.take()
    return taken.key if taken else None


def test_the_most_urgent_ready_task_is_next() -> None:
    work = work_list([task("late", "a"), task("a"), task("b")])
    assert [take(work), take(work), take(work)] == ["a", "b", None]
    work.settle("a", DONE)
    assert take(work) == "late"


def test_a_failure_is_retried_then_blocks_what_needs_it_and_nothing_else() -> None:
    work = work_list([task("a"), task("b"), task("needs a", "a"), task("needs b", "b")], retries=1)
    assert take(work) == "a"
    assert work.settle("a", FAILED)
    assert take(work) == "a"
    assert not work.settle("a", FAILED)
    assert work.failed == {"a": FAILED} and work.blocked == {"needs a": "a"}
    assert take(work) == "b"
    work.settle("b", DONE)
    assert take(work) == "needs b"


def test_a_failure_that_cannot_be_recorded_ends_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk; Tune would print tracebacks of what is raised here."""
    monkeypatch.setattr(Task, "label", "a")
    execution = Execution(work_list([task("a")]), Ledger(tmp_path), [])
    (only,) = filter(None, [execution.take()])
    (tmp_path / "failures").touch()  # where a folder is to be made
    execution.settle(only, FAILED)
    assert execution.work_list.failed == {"a": FAILED}


@pytest.mark.parametrize("outcome", [Outcome("diverged", "loss is nan"), Outcome("out of memory", "12 GB")])
def test_what_would_end_in_the_same_way_is_not_tried_again(outcome: Outcome) -> None:
    work = work_list([task("a"), task("needs a", "a"), task("needs that", "needs a")], retries=3)
    take(work)
    assert not work.settle("a", outcome)
    assert work.exhausted and work.failed == {"a": outcome} and set(work.blocked.values()) == {"a"}


def test_a_lost_node_costs_no_retry_but_not_without_end() -> None:
    work = work_list([task("a"), task("b", "a")], retries=0)
    for _ in range(MOST_LOSSES):
        assert take(work) == "a"
        assert work.settle("a", LOST)
    assert take(work) == "a" and work.attempts["a"] == 1
    assert not work.settle("a", LOST)
    assert work.failed == {"a": LOST} and work.blocked == {"b": "a"}


def test_what_has_no_room_is_passed_over() -> None:
    work = work_list([task("large"), task("small")])
    taken = work.take(lambda key: key == "small")
    assert taken and taken.key == "small" and work.take(lambda key: False) is None
    assert take(work) == "large"


def test_something_always_runs_until_nothing_is_left() -> None:
    generator = random.Random(0)
    for _ in range(200):
        count = generator.randint(1, 12)
        tasks = [task(str(n), *(str(m) for m in range(n) if generator.random() < 0.3)) for n in range(count)]
        generator.shuffle(tasks)
        work = work_list(tasks, retries=1)
        while not work.exhausted:
            while len(work.running) < 3 and take(work):
                pass
            assert work.running, "Tune would wait for ever"
            assert all(work.done.issuperset(work.tasks[key].needs) for key in work.running)
            work.settle(generator.choice(sorted(work.running)), FAILED if generator.random() < 0.3 else DONE)
        ended = work.done | set(work.failed) | set(work.blocked)
        assert ended == set(work.tasks)
        assert all(work.done.issuperset(work.tasks[key].needs) for key in work.done)
