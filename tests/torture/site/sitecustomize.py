"""Read by Python at the start of every process that the torture harness starts, and of its children."""

import os
from pathlib import Path

from tests.torture.faults import CONTROL, install

if CONTROL in os.environ:
    install(Path(os.environ[CONTROL]))
