"""The commands of `mm1-lab`. They may import every other module; each imports its heavy dependencies only when it runs.
A command's docstring is its help text, and `--help` lists the commands in the order of these modules."""

# isort: off
from mm1_lab.commands import running
from mm1_lab.commands import trained
from mm1_lab.commands import scales
from mm1_lab.commands import showing
from mm1_lab.commands import answers
from mm1_lab.commands import project
from mm1_lab.commands.common import COMMANDS as COMMANDS
