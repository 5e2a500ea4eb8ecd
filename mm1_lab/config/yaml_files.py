"""Reads YAML as plain values, never with a loader that can build Python objects."""

from pathlib import Path
from typing import Any

import yaml

from mm1_lab.config.errors import RequestError, short

LONGEST_NUMBER = 60
"""Size limit of an integer in characters. Python refuses to write out integers of thousands of digits."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping. Raises RequestError for anything else."""
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{path}: is not a file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RequestError(f"{path}: must hold keys and values")
    return values


class _Loader(yaml.SafeLoader):
    """Rejects aliases within anchored values, as a few lines of several would use up all memory, and equal keys, of
    which PyYAML keeps the last, so that one of two arms with the same name would silently be lost."""

    within_anchored = 0
    """How many anchored values the one being read is in."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and self.within_anchored:
            text = "an alias within an anchored value is not supported; write the value out"
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem=text, problem_mark=mark)
        anchored = not isinstance(event, yaml.AliasEvent) and event.anchor is not None
        self.within_anchored += anchored
        node = super().compose_node(parent, index)
        self.within_anchored -= anchored
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        key: Any
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    text = f"the key {short(key.value, str)!r} appears twice; remove one"
                    raise yaml.MarkedYAMLError(problem=text, problem_mark=key.start_mark)
                seen.add(key.value)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        text.encode()  # raises for an unpaired surrogate, which cannot be stored as UTF-8
        if node.tag == "tag:yaml.org,2002:int" and len(text) > LONGEST_NUMBER:
            raise ValueError(f"an integer of {len(text)} characters")
        return text


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML into plain values. Raises RequestError if it is invalid or too deeply nested."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    # all but the first by dates, numbers and characters that do not exist
    except (yaml.YAMLError, ValueError, KeyError, OverflowError, AttributeError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = short(getattr(error, "problem", None) or error, str)
        raise RequestError(f"{where}{line}: is no plain YAML ({problem})") from None
