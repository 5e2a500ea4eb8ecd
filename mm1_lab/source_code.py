"""Hashes of the source code of parts that users add or edit: connectors, metrics, data readers.

Identity comes from configuration, never from code, so that a refactoring keeps every result. But a user's part keeps
its name when its code is edited, and its trials keep their scores. So results record the hash of the code of the parts
they were made with, and reports mention where it has changed since. The hash ignores comments, docstrings, layout, and
code that the part uses from other files. Source files are parsed, not imported, which is fast.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from mm1_lab.formatting import counted

PLACES = {
    "connector": (("model/connectors.py",), "CONNECTORS"),
    "metric": (("evaluate/metrics.py",), "METRICS"),
    "reader": (("data/shards/readers.py", "data/shards/conversations.py"), "READERS"),
}
"""By kind of part: the files that contain all its parts, and the table in which they are registered or listed."""


@cache
def code_hash(kind: str, name: str) -> str | None:
    """12 hexadecimal digits over the part and the code it uses in its own file. None if there is no such part."""
    files, table = PLACES[kind]
    for file in files:
        source = (Path(__file__).parent / file).read_text(encoding="utf-8")
        try:
            body = ast.parse(source).body
        except SyntaxError:  # it is being edited
            return _digest(source)
        if part := next(_entries(body, kind, table, name), None):
            return _part_hash(part, body, (kind, table))
    return None


def _part_hash(part: ast.AST, body: list[ast.stmt], registry: tuple[str, str]) -> str:
    known = {own: node for node in body for own in _names(node) if own not in registry}
    used, waiting = {id(part): part}, [part]
    while waiting:
        names = [node.id for node in ast.walk(waiting.pop()) if isinstance(node, ast.Name)]
        new = {id(known[own]): known[own] for own in names if own in known and id(known[own]) not in used}
        used |= new
        waiting += new.values()
    text = "\n".join(sorted(ast.unparse(_bare(node)) for node in used.values()))
    return _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changed_parts(recorded: Mapping[str, str]) -> list[str]:
    """The parts (such as `connector c-abstractor`) whose code no longer has the recorded hash."""
    now = {part: code_hash(*part.split(" ", 1)) for part in recorded}
    return [part for part, known in recorded.items() if now[part] not in (None, known)]


def _entries(body: list[ast.stmt], kind: str, table: str, name: str) -> Iterator[ast.AST]:
    """The definition decorated with `@kind("name", …)`, or the value of `name` in the table."""
    for node in body:
        for call in getattr(node, "decorator_list", ()):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == kind and _is(call.args[0], name):
                yield node
        value = getattr(node, "value", None)
        if table in _names(node) and isinstance(value, ast.Dict):
            yield from (part for key, part in zip(value.keys, value.values, strict=True) if _is(key, name))


def _is(node: ast.expr | None, name: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == name


def _names(node: ast.stmt) -> list[str]:
    """Names that a statement defines."""
    targets = [*getattr(node, "targets", ()), getattr(node, "target", None)]
    return [getattr(node, "name", ""), *(target.id for target in targets if isinstance(target, ast.Name))]


def _bare(node: ast.AST) -> ast.AST:
    """Removes decorators and docstrings."""
    for part in ast.walk(node):
        if isinstance(part, ast.ClassDef | ast.FunctionDef):
            part.decorator_list = []
            body = [one for one in part.body if not _is_text(one)]
            part.body = body or [ast.Pass()]
    return node


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def changed_text(parts: Iterable[str]) -> str:
    """A sentence about changed parts, each listed once per trial made with it; empty if there are none."""
    counts = Counter(parts)
    if not counts:
        return ""
    which = ", ".join(f"{part} ({counted(count, 'trial')})" for part, count in counts.items())
    return f"The code of {which} changed since they were made; `mm1-lab run … --anew` runs them again."
