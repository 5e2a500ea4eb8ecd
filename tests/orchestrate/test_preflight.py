"""A cluster is asked before anything runs: nodes that are stood for by functions, and (soak) two of Ray's own."""

import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mm1_lab import team
from mm1_lab.config import RequestError, Resources, load_scale
from mm1_lab.orchestrate.execution import ray_tune
from mm1_lab.orchestrate.execution.ray_tune import _slots, check_nodes, fault
from mm1_lab.orchestrate.execution.worker import Worker, settings_kept
from mm1_lab.results import Ledger
from tests.conftest import SCALES


@pytest.fixture
def worker(tmp_path) -> Worker:
    return Worker(Ledger(tmp_path / "results", tmp_path / "store"), None, load_scale("smoke", SCALES))


@pytest.mark.parametrize(
    ("hidden", "package", "told"),
    [
        ("results", "", "does not see .*elsewhere.*shared"),
        ("store", "", "does not see .*elsewhere.*shared"),
        ("", "torch", "has torch .*, but the driver has 0.1"),
    ],
)
def test_a_node_without_a_folder_or_with_other_software_is_named(worker, hidden, package, told, tmp_path, monkeypatch):
    def ask(folders: Sequence[Path], expected: Mapping[str, str]) -> Mapping[str, str]:
        elsewhere = [tmp_path / "elsewhere" / path.name if path.parent.name == hidden else path for path in folders]
        other = {name: "0.1" if name == package else version for name, version in expected.items()}
        return {"good": fault(folders, expected), "bad": fault(elsewhere, other)}

    monkeypatch.setattr(ray_tune, "ask_ray", ask)
    with pytest.raises(RequestError, match=f"^node bad {told}"):
        check_nodes(worker)
    for folder in (worker.ledger.results, worker.ledger.store):
        assert not list(folder.iterdir())


@pytest.mark.parametrize(("gpus", "kind"), [(0, "cpu"), (0.5, "cuda"), (1, "cuda")])
def test_stages_of_a_scale_without_gpus_stay_on_the_processor(worker, gpus, kind, monkeypatch):
    """Where there is a GPU, which is neither hidden from them nor wanted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100")
    monkeypatch.setattr(team, "_gpu_allowed", True)  # and put back
    scale = worker.scale.model_copy(update={"resources": Resources(gpus=gpus)})
    replace(worker, scale=scale)._reset_process(0)
    assert team.device().type == kind
    assert ("A100" in team.processor()) == (kind == "cuda")


def test_stages_compute_alike_whatever_a_notebook_has_set(worker):
    """Without TF32, and it has its settings back."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.allow_tf32 = True
    torch.backends.fp32_precision = matmul.fp32_precision = "tf32"  # torch.get_float32_matmul_precision then fails
    try:
        with torch.inference_mode(), torch.autocast("cpu"), settings_kept():
            worker._reset_process(0)
            assert torch.get_float32_matmul_precision() == "highest" and not cudnn.allow_tf32
            assert {one.fp32_precision for one in (cudnn.conv, torch.backends.mkldnn.conv, matmul)} == {"ieee"}
            assert not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
        assert matmul.fp32_precision == "tf32" and cudnn.allow_tf32
    finally:
        for one in (torch.backends, cudnn, matmul):
            one.fp32_precision = "none"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_scale_with_gpus_is_not_trained_on_the_processor(here, refused, monkeypatch):
    run = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--set", "resources.gpus=1")
    for road in ("--inline", "--share"):
        text = refused(*run, road)
        assert f"resources.gpus: torch {torch.__version__} finds no GPU on" in text
        assert "--set resources.gpus=0" in text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as in a job that asks for none
    assert "(CUDA_VISIBLE_DEVICES is ''); ask the batch system for one, mend" in refused(*run, "--inline")


def test_there_is_room_for_what_fits_a_node():
    nodes = [{"CPU": 64, "GPU": 8}, {"CPU": 6, "GPU": 8}, {"CPU": 3}]
    assert _slots(Resources(cpus=4, gpus=1), nodes, cluster=True) == 8 + 1
    assert _slots(Resources(cpus=2), nodes, cluster=True) == 32 + 3 + 1
    text = r"needs 4 CPUs and 1 GPUs, but no running node of the cluster has them; start one .*`min_workers`"
    with pytest.raises(RequestError, match=text):
        _slots(Resources(cpus=4, gpus=1), [{"CPU": 64}, {"CPU": 2, "GPU": 1}], cluster=True)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_node_without_the_shared_folder_is_refused_by_name(place):
    """A second node of Ray's in a mount namespace of its own, where another file system hides the results."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    join = f"{sys.executable} -m ray.scripts.scripts start --address {cluster.address} --num-cpus 1 --block"
    command = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs none {place.results} && exec {join}"]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while len(cluster.global_state.node_table()) < 2:
            if node.poll() is not None:
                pytest.skip(f"no mount namespace here: {node.communicate()[0][-200:]}")
            time.sleep(0.5)
        output = place.run("run", "data_mix", "--scale", "smoke", "--address", cluster.address, code=2)
        told = [line for line in output.splitlines() if line.startswith("mm1-lab: ")]
        assert len(told) == 1 and told[0].startswith(f"mm1-lab: node {platform.node()} ("), output
        assert f"does not see {place.results}" in told[0]
        assert not list(place.results.glob("trials/*"))
    finally:
        node.terminate()
        node.wait(60)
        cluster.shutdown()
