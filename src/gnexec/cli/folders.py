"""Which folder a server keeps its things in: what all commands share that look into one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gnexec.settings import ServerSettings, data_home


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Where a server keeps its things.

    Attributes:
        data: Folder of everything the server keeps: log, blobs, private keys.
    """

    # The variable is not GNEXEC_DATA: that names the reference data of the tests.
    data: Annotated[Path, Parameter(env_var="GNEXEC_DATA_DIR")] = field(default_factory=data_home)

    @property
    def settings(self) -> ServerSettings:
        """The settings of a server over this folder of which nothing else is said."""
        return ServerSettings(data=self.data)
