"""Checks on every node of a cluster, before anything runs, that it can run a plan.

Stages pass files to each other. A node that does not see the driver's folders would repeat finished work or wait for
files that never appear; one with different code or libraries would produce other numbers under the same fingerprints.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_lab.config import RequestError
from mm1_lab.orchestrate.execution.worker import PACKAGES, WorkerContext

ANSWER_SECONDS = 300.0
"""Timeout for a node's answer; it must fetch the code first and may be busy."""
FOLDER = ".preflight"


@dataclass(frozen=True)
class Question:
    """What a node must check."""

    nonce: str
    shared: tuple[Path, ...]
    """Folders that the node must be able to read and write; the driver has written its nonce to each."""


@dataclass(frozen=True)
class Answer:
    unseen: tuple[Path, ...]
    """The paths that the node does not see or cannot write to."""
    software: dict[str, str]
    wrote: str
    """The name of the file that it has written next to each nonce."""


Ask = Callable[[Question], Mapping[str, Answer]]
"""Asks every node; returns the answers by node name."""


def check_nodes(ask: Ask, context: WorkerContext) -> None:
    """Raises RequestError, naming the node and the path or library, if a node cannot run tasks like this one."""
    shared = (context.results.absolute(), context.store.absolute())
    question = Question(secrets.token_hex(8), shared)
    folders = [folder / FOLDER / question.nonce for folder in shared]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "driver").write_text(question.nonce, encoding="utf-8")
        own = software()
        for node, answer in ask(question).items():
            _check(node, answer, folders, own)
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _check(node: str, answer: Answer, folders: Iterable[Path], own: Mapping[str, str]) -> None:
    """Compares a node's answer with this machine: `folders` hold what the driver wrote, `own` is its `software`."""
    if answer.unseen:
        raise RequestError(
            f"node {node} does not see {answer.unseen[0]}, or cannot write there; every node needs it "
            "under this path (on a shared file system), see docs/cluster.md"
        )
    for folder in folders:
        if not (folder / answer.wrote).exists():
            raise RequestError(f"node {node} has a {folder.parents[1]} of its own; it must be a shared folder")
    for name, version in own.items():
        if answer.software.get(name) != version:
            there = answer.software.get(name, "none")
            raise RequestError(f"node {node} has {name} {there}, but here it is {version}; install the same")


def look(question: Question) -> Answer:
    """A node's answer; runs on the node."""
    unseen = []
    wrote = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    for shared in question.shared:
        folder = shared / FOLDER / question.nonce
        try:
            if (folder / "driver").read_text(encoding="utf-8") != question.nonce:
                unseen.append(shared)
            (folder / wrote).write_text(question.nonce, encoding="utf-8")
        except OSError:
            unseen.append(shared)
    return Answer(tuple(unseen), software(), wrote)


def software() -> dict[str, str]:
    """The versions of libraries, and a digest of this package's files."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, "ray")}
    return {"mm1_lab (by its files)": digest.hexdigest()[:12], "python": platform.python_version(), **versions}


def node_names(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Names of the live ones of Ray's `nodes` by id; nodes of one machine differ by the beginning of the id."""
    alive = [node for node in nodes if node["Alive"]]
    names = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {key: f"{name[:-1]}, {key[:8]})" if name in shared else name for key, name in names.items()}


def ask_ray(question: Question) -> dict[str, Answer]:
    """Asks every node of the cluster that this process is connected to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = node_names(ray.nodes())
    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        name: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False)).remote(question)
        for key, name in nodes.items()
    }
    answers = {}
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise RequestError(f"node {name} cannot run this code ({reason})") from None
    return answers
