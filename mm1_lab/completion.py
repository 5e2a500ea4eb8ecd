"""Bash and zsh completion, generated from the command's own options: `eval "$(mm1-lab completion)"`."""

import re
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from mm1_lab.files import SHIPPED

PLAIN = re.compile(r"[\w.+=,@-]+")
"""`compgen -W` expands its words, so that a file named `$(…)` would run a command."""
HEAD = """\
[ -n "$ZSH_VERSION" ] && autoload -U +X compinit bashcompinit && compinit -u && bashcompinit
_mm1_lab() {
  local words
  case "${COMP_WORDS[1]}" in
"""
TAIL = """\
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="%s"
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _mm1_lab mm1-lab"""


def completion_script(commands: Mapping[str, ArgumentParser]) -> str:
    """A shell script that completes commands, options and names of sweeps and scales, and otherwise files."""
    lines = []
    for name, command in commands.items():
        words = [option for action in command._actions for option in action.option_strings]
        metavars = {str(action.metavar) for action in command._actions}
        words += _names("sweeps") if "SWEEP" in metavars else []
        words += _names("sweeps/scales") if "SCALE" in metavars or "--scale" in words else []
        lines.append(f'    {name}) words="{" ".join(words)}" ;;\n')
    return HEAD + "".join(lines) + TAIL % " ".join(commands)


def _names(folder: str) -> list[str]:
    """Stems of the folder's YAML files, without those that a shell would not take literally."""
    stems = {path.stem for root in (Path(), SHIPPED) for path in (root / folder).glob("*.yaml")}
    return sorted(filter(PLAIN.fullmatch, stems))
