"""Checks on every node of a cluster, before anything runs, that it can run a plan.

Stages pass files to each other. A node that does not see the driver's folders would repeat finished work or wait for
files that never appear; one with different code or libraries would produce other numbers under the same fingerprints.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mm1_lab.config import RequestError
from mm1_lab.orchestrate.execution.worker import PACKAGES, WorkerContext

ANSWER_SECONDS = 300.0
"""Timeout for a node's answer; it must fetch the code first and may be busy."""


class NodeState(NamedTuple):
    """What a node finds."""

    unseen: Sequence[Path]
    """The folders that it does not see or cannot write to."""
    software: Mapping[str, str]


def check_nodes(context: WorkerContext, ask: Callable[[Sequence[Path]], Mapping[str, NodeState]] | None = None) -> None:
    """Raises RequestError, naming the node and the path or library, if a node cannot run tasks like this one.

    `ask` returns what `look` finds on every node, by the node's name; by default Ray's nodes are asked.
    """
    name = f".preflight-{secrets.token_hex(8)}"  # which only a node that sees the driver's folder can find
    folders = [context.results.absolute() / name, context.store.absolute() / name]
    own = software()
    try:
        for folder in folders:
            folder.mkdir(parents=True)
        for node, state in (ask or ask_ray)(folders).items():
            if state.unseen:
                raise RequestError(
                    f"node {node} does not see {state.unseen[0].parent}, or cannot write there; every node needs it "
                    "under this path (on a shared file system), see docs/cluster.md"
                )
            for package, version in own.items():
                if (there := state.software.get(package, "none")) != version:
                    raise RequestError(f"node {node} has {package} {there}, but here it is {version}; install the same")
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def look(folders: Sequence[Path]) -> NodeState:
    """What this node finds; `folders` are the driver's."""
    unseen = []
    for folder in folders:
        try:
            (folder / secrets.token_hex(8)).touch()
        except OSError:
            unseen.append(folder)
    return NodeState(unseen, software())


def software() -> dict[str, str]:
    """The versions of libraries, and a digest of this package's files."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, "ray")}
    return {"mm1_lab (by its files)": digest.hexdigest()[:12], "python": platform.python_version(), **versions}


def ask_ray(folders: Sequence[Path]) -> dict[str, NodeState]:
    """Looks from every node of the cluster that this process is connected to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            key = node["NodeID"]
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {key[:8]})"
            there = NodeAffinitySchedulingStrategy(key, soft=False)
            asked[name] = remote.options(scheduling_strategy=there).remote(folders)
    states = {}
    for name, answer in asked.items():
        try:
            states[name] = ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise RequestError(f"node {name} cannot run this code ({reason})") from None
    return states
