"""Reads YAML as plain values, never with a loader that can build Python objects."""

from pathlib import Path
from typing import Any

import yaml

from mm1_lab.config.errors import RequestError, kind_of, short

LARGEST_FILE = 1_000_000
"""Size limit of a YAML file in bytes. Parsing takes a second per 100,000; a sweep of a hundred arms has 10,000."""
LONGEST_NUMBER = 60
"""Size limit of an integer in characters. Python refuses to write out integers of thousands of digits."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping.

    Raises RequestError if it does not exist, is not valid YAML, contains a Python tag, or is not a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{path}: is not a file")
        if path.stat().st_size > LARGEST_FILE:
            raise RequestError(f"{path}: has {path.stat().st_size} bytes; a file of settings has thousands")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RequestError(f"{path}: must hold keys and values, but holds {kind_of(values)}")
    return values


class _Refused(yaml.YAMLError):
    """Valid YAML that is not accepted here."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, mark


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys and merge keys, and aliases within anchored values: a few lines, each with several aliases
    of the line before, would use up all memory.

    PyYAML itself keeps the last of two equal keys, so one of two arms with the same name would silently be lost.
    """

    within_anchored = 0
    """How many anchored values the one being read is in."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if self.within_anchored:
                text = f"an alias (*{event.anchor}) within an anchored value is not supported; write the value out"
                raise _Refused(text, event.start_mark)
            return super().compose_node(parent, index)
        anchored = event.anchor is not None
        self.within_anchored += anchored
        node = super().compose_node(parent, index)
        self.within_anchored -= anchored
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _Refused("merge keys (<<) are not supported; write the keys out", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(f"the key {short(key.value, str)!r} appears twice; remove one", key.start_mark)
                seen.add(key.value)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        text.encode()  # raises for an unpaired surrogate, which cannot be stored as UTF-8
        if node.tag == "tag:yaml.org,2002:int" and len(text) > LONGEST_NUMBER:
            raise _Refused(f"an integer of {len(text)} characters", node.start_mark)
        return text


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML into plain values. Raises RequestError if it is invalid or too deeply nested."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark:
            where = f"{where}, line {mark.line + 1}"
        problem = short(getattr(error, "problem", error), str)
        if isinstance(error, _Refused):
            raise RequestError(f"{where}: {problem}") from None
        if isinstance(error, yaml.constructor.ConstructorError):
            raise RequestError(f"{where}: only plain YAML is read here; remove the tag ({problem})") from None
        raise RequestError(f"{where}: this is not YAML ({problem})") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    except (ValueError, KeyError, OverflowError, AttributeError, TypeError) as error:  # by dates, numbers, characters
        raise RequestError(f"{where}: holds a value that cannot be read ({short(error, str)})") from None
