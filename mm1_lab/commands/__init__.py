"""What each command of `mm1-lab` does. Knows every other module; whatever is heavy is imported by the command that
needs it. A command's docstring is its help, and the help lists them in the order of these modules."""

from mm1_lab.commands import running, trained, scales, showing, project  # noqa: I001
from mm1_lab.options import COMMANDS as COMMANDS
