import random

import pytest

from mm1_lab.orchestrate.plan import Unit
from mm1_lab.orchestrate.worklist import WorkList


def unit(key: str, *needs: str) -> Unit:
    return Unit(key, (), needs, (key,))


def work_list(units: list[Unit], retries: int = 0, may_stand_by: bool = False) -> WorkList:
    priority = {u.key: float(len(units) - place) for place, u in enumerate(units)}
    return WorkList({u.key: u for u in units}, priority, retries, may_stand_by)


def take(work: WorkList) -> str | None:
    taken = work.take()
    return taken.key if taken else None


def test_the_most_urgent_ready_unit_is_next() -> None:
    work = work_list([unit("late", "a"), unit("a"), unit("b")])
    assert [take(work), take(work), take(work)] == ["a", "b", None]
    work.finish("a")
    assert take(work) == "late"


def test_a_failure_is_retried_then_blocks_what_needs_it_and_nothing_else() -> None:
    work = work_list([unit("a"), unit("b"), unit("needs a", "a"), unit("needs b", "b")], retries=1)
    assert take(work) == "a"
    assert work.fail("a", "nan")
    assert take(work) == "a"
    assert not work.fail("a", "nan")
    assert work.failed == {"a": "nan"} and work.blocked == {"needs a": "a"}
    assert take(work) == "b"
    work.finish("b")
    assert take(work) == "needs b"


def test_one_that_stands_by_is_blocked_with_its_input_and_not_retried() -> None:
    work = work_list([unit("needs a", "a"), unit("a")], retries=3, may_stand_by=True)
    assert take(work) == "a"
    assert take(work) == "needs a" and "needs a" in work.standing_by
    while work.fail("a", "nan"):
        assert take(work) == "a"
    assert not work.fail("needs a", "a failed")
    assert work.blocked == {"needs a": "a"} and set(work.failed) == {"a"} and work.exhausted


@pytest.mark.parametrize("may_stand_by", [False, True])
def test_something_always_runs_until_nothing_is_left(may_stand_by: bool) -> None:
    generator = random.Random(0)
    for _ in range(200):
        count = generator.randint(1, 12)
        units = [unit(str(n), *(str(m) for m in range(n) if generator.random() < 0.3)) for n in range(count)]
        generator.shuffle(units)
        work = work_list(units, retries=1, may_stand_by=may_stand_by)
        while not work.exhausted:
            while len(work.running) < 3 and take(work):
                pass
            able = [key for key in work.running if work.done.issuperset(work.units[key].needs)]
            stuck = [key for key in work.running if any(n in work.failed for n in work.units[key].needs)]
            assert able or stuck, "Tune would wait for ever"
            key = generator.choice(able or stuck)
            if key in stuck or generator.random() < 0.3:
                work.fail(key, "bad luck")
            else:
                work.finish(key)
        ended = work.done | set(work.failed) | set(work.blocked)
        assert ended == set(work.units)
        assert all(work.done.issuperset(work.units[key].needs) for key in work.done)
