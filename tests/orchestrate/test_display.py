import io

import pytest

from mm1_lab.config import Trial
from mm1_lab.orchestrate.cost import Speeds
from mm1_lab.orchestrate.display import Board, LineDisplay, LiveDisplay, duration
from mm1_lab.orchestrate.plan import Plan, make_plan
from mm1_lab.orchestrate.request import load_request
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
    board = Board(plan, Speeds({}), clock)
    shared = [unit for unit in plan.units.values() if unit.kind != "trial"]
    first, second, third = (unit for unit in plan.units.values() if unit.kind == "trial")
    assert board.seconds_left() is None
    for unit in shared:
        board.start(unit)
        board.end(unit)
    board.start(first)
    clock.now = 100.0
    board.end(first)
    board.start(second)
    assert board.seconds_left() == pytest.approx(200), "two equal trials, one at a time"
    board.start(third)
    assert board.seconds_left() == pytest.approx(100), "two at a time"
    clock.now = 150.0
    costs = board.costs[second.key]
    board.advance(second, "multimodal", Progress(3, 6))
    share = 0.5 * costs["multimodal"] / sum(costs.values())
    assert board.running[second.key].fraction(costs) == pytest.approx(share)
    board.end(second)
    board.end(third, failure="loss is nan")
    assert board.seconds_left() == 0 and board.progress() == "2 of 3 trials"


def test_time_left_does_not_jump_when_one_of_two_ends(plan: Plan) -> None:
    clock = Clock()
    board = Board(plan, Speeds({}), clock)
    for unit in plan.units.values():
        if unit.kind != "trial":
            board.start(unit)
            board.end(unit)
    first, second, _ = (unit for unit in plan.units.values() if unit.kind == "trial")
    board.start(first)
    board.start(second)
    clock.now = 100.0
    board.end(first)
    assert board.seconds_left() == pytest.approx(100), "a running one and a waiting one, two at a time"


def test_lines_where_there_is_no_terminal(plan: Plan) -> None:
    out = io.StringIO()
    display = LineDisplay(Board(plan, Speeds({})), out)
    unit = next(unit for unit in plan.units.values() if unit.kind == "trial")
    display.started(unit)
    display.progress(unit, "multimodal", Progress(1, 6, {"loss": 5.0}, 100.0))
    display.failed(unit, "loss is nan", again=True)
    display.started(unit)
    display.finished(unit)
    lines = out.getvalue().splitlines()
    assert lines[0] == "starts    base / seed 0" and lines[1] == "failed    base / seed 0: loss is nan (tries again)"
    assert lines[3].startswith("done      base / seed 0 in 0 s (1 of 3 trials")


def test_the_live_table_shows_step_loss_speed_and_failures(plan: Plan) -> None:
    out = io.StringIO()
    board = Board(plan, Speeds({}))
    display = LiveDisplay(board, out)
    running, failing = (unit for unit in plan.units.values() if unit.kind == "trial" and unit.names[0][:2] != "bl")
    display.started(running)
    display.progress(running, "multimodal", Progress(3, 6, {"loss": 4.321}, 1234.0))
    display.started(failing)
    display.failed(failing, "loss is nan", again=False)
    display.close()
    text = out.getvalue()
    for expected in ("base / seed 0", "multimodal", "3/6", "4.321", "1,234", "1 failed", "loss is nan"):
        assert expected in text


def test_durations_read_well() -> None:
    assert [duration(s) for s in (3, 89, 600, 12_000)] == ["3 s", "89 s", "10 min", "3 h 20 min"]
