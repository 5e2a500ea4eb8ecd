"""Hashes of the code of parts that people add or edit: connectors, metrics, readers of data.

Identity is configuration, never code, so that a refactoring keeps every result. But a part of one's own keeps its name
when its body is edited, and its trials their scores. So what was made with a part records the hash of its code, and
whoever shows it says where the code is another now. Comments, docstrings and layout are not in the hash, nor is what
the part takes from other files. Source files are read, not imported, so that it takes no time.
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
"""By kind of part: the files that have them all, and the table that they stand in, by decorator or as it is written."""


@cache
def code_hash(kind: str, name: str) -> str | None:
    """Of the part and of what it uses of its own file: 12 hexadecimal digits. None where there is no such part."""
    files, table = PLACES[kind]
    for file in files:
        source = (Path(__file__).parent / file).read_text(encoding="utf-8")
        try:
            body = ast.parse(source).body
        except SyntaxError:  # somebody is writing it just now
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
    """Of parts (`connector c-abstractor`) with the hashes that they had, those whose code is another now."""
    now = {part: code_hash(*part.split(" ", 1)) for part in recorded}
    return [part for part, known in recorded.items() if now[part] not in (None, known)]


def _entries(body: list[ast.stmt], kind: str, table: str, name: str) -> Iterator[ast.AST]:
    """The definition under `@kind("name", …)`, or the value of `name` in the table."""
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
    """What a statement of a file defines."""
    targets = [*getattr(node, "targets", ()), getattr(node, "target", None)]
    return [getattr(node, "name", ""), *(target.id for target in targets if isinstance(target, ast.Name))]


def _bare(node: ast.AST) -> ast.AST:
    """Without decorators and docstrings."""
    for part in ast.walk(node):
        if isinstance(part, ast.ClassDef | ast.FunctionDef):
            part.decorator_list = []
            body = [one for one in part.body if not _is_text(one)]
            part.body = body or [ast.Pass()]
    return node


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def changed_text(parts: Iterable[str]) -> str:
    """A sentence about changed parts, each as often as there are trials that were made with it; empty for none."""
    counts = Counter(parts)
    if not counts:
        return ""
    which = ", ".join(f"{part} ({counted(count, 'trial')})" for part, count in counts.items())
    return f"The code of {which} changed since they were made; `mm1-lab run … --anew` makes them again."
