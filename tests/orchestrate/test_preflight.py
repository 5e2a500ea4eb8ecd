"""A cluster is asked before anything runs: nodes that are stood for by functions, and (soak) two of Ray's own."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from mm1_lab.config import RequestError, Resources, load_scale
from mm1_lab.orchestrate.plan import make_plan
from mm1_lab.orchestrate.preflight import FOLDER, Answer, Question, check_nodes, look
from mm1_lab.orchestrate.ray_tune import _slots
from mm1_lab.orchestrate.request import REPOSITORY, load_request
from mm1_lab.orchestrate.worker import WorkerContext


@pytest.fixture
def context(tmp_path: Path) -> WorkerContext:
    scale = load_scale("smoke", REPOSITORY / "sweeps" / "scales")
    data = tmp_path / "data.yaml"
    data.touch()
    return WorkerContext(tmp_path / "results", tmp_path / "store", data, scale)


def test_a_node_that_sees_everything_is_taken_and_leaves_nothing(context: WorkerContext) -> None:
    request = load_request("data_mix", "smoke", "1", ("base",), (), None, context.results, context.store)
    check_nodes(lambda question: {"one": look(question)}, context, make_plan(request.trials, request.ledger).tasks)
    for folder in (context.results, context.store):
        assert not list((folder / FOLDER).iterdir())


@pytest.mark.parametrize("hidden", ["results", "store", "data.yaml"])
def test_a_node_without_a_folder_is_named_with_the_path(context: WorkerContext, hidden: str, tmp_path: Path) -> None:
    def elsewhere(path: Path) -> Path:
        return tmp_path / "elsewhere" / path.name if path.name == hidden else path

    def ask(question: Question) -> Mapping[str, Answer]:
        there = dataclasses.replace(
            question, shared=tuple(map(elsewhere, question.shared)), needed=tuple(map(elsewhere, question.needed))
        )
        return {"good": look(question), "bad": look(there)}

    with pytest.raises(RequestError, match=rf"^node bad does not see .*{hidden}.*shared"):
        check_nodes(ask, context, {})


def test_a_node_whose_folder_is_another_one_of_that_name_is_told(context: WorkerContext, tmp_path: Path) -> None:
    """It finds the nonce, for the folder was copied, but what it writes does not come back."""

    def ask(question: Question) -> Mapping[str, Answer]:
        shutil.copytree(context.store, tmp_path / "copy" / "store")
        shutil.copytree(context.results, tmp_path / "copy" / "results")
        copies = tuple(tmp_path / "copy" / path.name for path in question.shared)
        return {"good": look(question), "bad": look(dataclasses.replace(question, shared=copies))}

    with pytest.raises(RequestError, match=r"^node bad has a .*results"):
        check_nodes(ask, context, {})


@pytest.mark.parametrize("name", ["torch", "mm1_lab (by its files)"])
def test_a_node_with_other_software_is_told(context: WorkerContext, name: str) -> None:
    def ask(question: Question) -> Mapping[str, Answer]:
        answer = look(question)
        return {"bad": dataclasses.replace(answer, software=answer.software | {name: "0.1"})}

    with pytest.raises(RequestError) as error:
        check_nodes(ask, context, {})
    assert str(error.value).startswith(f"node bad has {name} 0.1, but here it is ")


def test_there_is_room_for_what_fits_a_node() -> None:
    with pytest.raises(RequestError, match=r"only one of 8 GPUs.*workers: {SIZE: 8}"):
        _slots(Resources(gpus=8), [{"CPU": 64, "GPU": 8}])
    nodes = [{"CPU": 64, "GPU": 8}, {"CPU": 6, "GPU": 8}, {"CPU": 3}]
    assert _slots(Resources(cpus=4, gpus=1), nodes) == 8 + 1
    assert _slots(Resources(cpus=2), nodes) == 32 + 3 + 1
    with pytest.raises(RequestError, match=r"needs 4 CPUs and 1 GPUs, but no node has them"):
        _slots(Resources(cpus=4, gpus=1), [{"CPU": 64}, {"CPU": 2, "GPU": 1}])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_nodes_of_ray_finish_a_sweep(place: object) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        arms = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")
        output = place.run(*arms, "--address", cluster.address)  # type: ignore[attr-defined]
        assert "failed" not in output, output
        assert "nothing ran" in place.run(*arms)  # type: ignore[attr-defined]
    finally:
        cluster.shutdown()
