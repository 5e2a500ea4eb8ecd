"""The commands of `mm1-lab`. They may import every other module; each imports its heavy dependencies only when it runs.
A command's docstring is its help text, and `--help` lists the commands in the order of these modules."""

from mm1_lab.commands import running, trained, scales, showing, judging, project  # noqa: I001
from mm1_lab.commands.options import COMMANDS as COMMANDS
