"""Runs the connectors of the user's own files that this process's sweeps name, and explains what they raise."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

import mm1_lab.model.connectors as connectors
from mm1_lab.config import ALLOWED, RequestError, nearest
from mm1_lab.files import run_file
from mm1_lab.model.connectors import CONNECTORS, Build


def explaining(kind: str) -> AbstractContextManager[None]:
    """Within it, what the code of a user's own connector raises becomes a RequestError with file and line."""
    own = ALLOWED.get(kind.partition("@")[2])
    return own.explained() if own else nullcontext()


def find(kind: str) -> Build | None:
    """The connector `NAME@DIGEST` of an allowed file; None for others. Raises RequestError for a file that fails,
    ValueError for a name that is neither built in nor in a file."""
    name, _, digest = kind.partition("@")
    if not digest and ALLOWED and name not in CONNECTORS:
        known = [*CONNECTORS, *(name for own in ALLOWED.values() for name in own.names)]
        raise ValueError(f"there is no connector {name!r}{nearest(name, known)}")
    return _classes_of(digest).get(name) if digest in ALLOWED else None


@cache
def _classes_of(digest: str) -> dict[str, Build]:
    """The classes of a file by name. It is run once in a process, and leaves CONNECTORS as it was."""
    own = ALLOWED[digest]
    before = dict(CONNECTORS)
    try:
        with own.explained(), torch.device("cpu"):  # what it makes on the way, a plan would make on the meta device
            run_file(own.file, own.content, f"mm1_connectors_{digest}")
        for name in own.names:
            if name in before:
                raise RequestError(f"{own.file}: the connector {name!r} is built in; give yours another name")
        return {name: CONNECTORS[name] for name in own.names if name in CONNECTORS}
    finally:
        CONNECTORS.clear()
        CONNECTORS.update(before)


connectors.find_own = find
