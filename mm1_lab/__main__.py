"""`python -m mm1_lab`."""

import sys

from mm1_lab.cli import main

sys.exit(main())
