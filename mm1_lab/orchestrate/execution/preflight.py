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

from mm1_lab.config import RequestError
from mm1_lab.orchestrate.execution.worker import PACKAGES, WorkerContext

ANSWER_SECONDS = 300.0
"""Timeout for a node's answer; it must fetch the code first and may be busy."""
Ask = Callable[[Sequence[Path], Mapping[str, str]], Mapping[str, str]]
"""Returns what `fault` says on every node, by the node's name."""


def check_nodes(context: WorkerContext, ask: Ask | None = None) -> None:
    """Raises RequestError, naming the node and the path or library, if a node cannot run tasks like this one.

    By default Ray's nodes are asked.
    """
    name = f".preflight-{secrets.token_hex(8)}"  # which only a node that sees the driver's folder can find
    folders = [context.results.absolute() / name, context.store.absolute() / name]
    try:
        for folder in folders:
            folder.mkdir(parents=True)
        for node, problem in (ask or ask_ray)(folders, software()).items():
            if problem:
                raise RequestError(f"node {node} {problem}")
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def fault(folders: Sequence[Path], expected: Mapping[str, str]) -> str:
    """What is wrong with this node, which should see the driver's `folders` and have its software; empty if nothing."""
    for folder in folders:
        try:
            (folder / secrets.token_hex(8)).touch()
        except OSError:
            return (
                f"does not see {folder.parent}, or cannot write there; every node needs it under this path (on a "
                "shared file system), see docs/cluster.md"
            )
    own = software()
    for package, version in expected.items():
        if own[package] != version:
            return f"has {package} {own[package]}, but the driver has {version}; install the same"
    return ""


def software() -> dict[str, str]:
    """The versions of libraries, and a digest of this package's files."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, "ray")}
    return {"mm1_lab (by its files)": digest.hexdigest()[:12], "python": platform.python_version(), **versions}


def ask_ray(folders: Sequence[Path], expected: Mapping[str, str]) -> dict[str, str]:
    """Asks every node of the cluster that this process is connected to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(fault)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            key = node["NodeID"]
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {key[:8]})"
            there = NodeAffinitySchedulingStrategy(key, soft=False)
            asked[name] = remote.options(scheduling_strategy=there).remote(folders, expected)
    answers = {}
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            answers[name] = f"cannot run this code ({reason})"
    return answers
