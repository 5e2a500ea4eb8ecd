"""`python -m mm1_lab`."""

from mm1_lab.cli import console

console()
