"""Connectors in a Python file of the user's own, which a sweep names: `connectors: mine.py`.

The file is read here and run only where a network is built (`mm1_lab/model/connectors.py`), and only if a sweep of this
command named it. Arms that use it have the connector `NAME@DIGEST`, so that an edit of the file makes new arms of these
alone. The text travels with the tasks: an edit, or a node without the file, does not change a running sweep.
"""

import ast
import hashlib
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field

from mm1_lab.config.base import Config, RequestError
from mm1_lab.config.recipe import Recipe


class OwnConnectors(Config):
    """A file with connectors."""

    file: str
    digest: str
    """Hexadecimal digits of the SHA-256 of its bytes."""
    names: tuple[str, ...]
    content: bytes = Field(b"", exclude=True, repr=False)

    def marked(self, recipe: Recipe) -> Recipe:
        """The recipe, whose connector gets the file's digest if it is from the file."""
        if recipe.connector not in self.names:
            return recipe
        return recipe.model_copy(update={"connector": f"{recipe.connector}@{self.digest}"})

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns what the file's code raises into a RequestError with its line."""
        try:
            yield
        except RequestError:
            raise
        except (Exception, SystemExit) as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.file]
            where = f", line {lines[-1]}" if lines else ""
            told = f"{self.file}{where}: {type(error).__name__}: {' '.join(str(error).split())}"
            raise RequestError(told) from error


ALLOWED: dict[str, OwnConnectors] = {}
"""The files, by digest, that the sweeps of this process name. No other file's code is run."""


MARK = re.compile(rb"""^@(?:\w+\.)*connector\(\s*["']([\w. -]+)["']\s*\)""", re.MULTILINE)


def read_connectors(path: Path) -> OwnConnectors:
    """Reads a file of connectors without running it. Raises RequestError if it is missing, or has none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); the path is relative to the sweep's file"
        raise RequestError(f"connectors: {path}: {reason}") from None
    names = tuple(name.decode() for name in MARK.findall(content))
    if not names:
        raise RequestError(f'{path}: has no connectors; mark each class with @connector("NAME")')
    _check_imports(path, content)
    digest = hashlib.sha256(content).hexdigest()[:12]
    return OwnConnectors(file=str(path), digest=digest, names=names, content=content)


def _check_imports(path: Path, content: bytes) -> None:
    """Raises RequestError for an import of the lab that an exported model, which has a copy of the file, would lack."""
    found: list[ast.AST] = []
    with suppress(SyntaxError, ValueError):  # told where the file is run
        found += ast.walk(ast.parse(content))
    for node in found:
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            imported = [name for name in names if not name.startswith("mm1_lab.model.connectors")]
        else:
            continue
        for name in imported:
            if name.startswith("mm1_lab."):
                raise RequestError(
                    f"{path}, line {node.lineno}: imports {name}, which exported models lack; of the lab import names "
                    "from mm1_lab.model.connectors alone"
                )
