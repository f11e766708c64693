"""`gnexec completion`: let a shell complete commands."""

from __future__ import annotations

import sys
from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a script that lets a shell complete commands.

    For bash: gnexec completion bash > ~/.local/share/bash-completion/completions/gnexec

    Args:
        shell: Which shell.
    """
    from gnexec.cli import app

    sys.stdout.write(app.generate_completion(shell=shell))
