"""`python -m gnexec` is `gnexec`."""

import sys

from gnexec.cli import main

sys.exit(main())
