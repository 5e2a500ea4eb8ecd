"""A Ctrl-C reaches every process of a terminal; those that help the command end without a word."""

import signal
import subprocess
import sys

from mm1_lab.processes import interrupts_blocked
from tests.conftest import REPOSITORY

IMPORTING = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('still imports', flush=True)"
READY = "from mm1_lab.processes import allow_interrupts; allow_interrupts(); print('works', flush=True)"


def test_a_helper_that_still_imports_does_so_and_then_ends_without_a_traceback() -> None:
    with interrupts_blocked():
        helper = subprocess.Popen(
            [sys.executable, "-c", f"{IMPORTING}; {READY}"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    output, errors = helper.communicate()
    assert (output, errors, helper.returncode) == ("still imports\n", "", -signal.SIGINT)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "the command itself hears it"
