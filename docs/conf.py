"""How Sphinx builds the documentation. The version is read from pyproject.toml, where it stands once."""

from __future__ import annotations

import tomllib
from pathlib import Path

_metadata = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "gnexec"
author = "The gnexec authors"
project_copyright = f"{author}, {_metadata['license']}"
version = release = _metadata["version"]

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"gnexec {release}"
html_static_path = ["_static"]
html_css_files = ["gnexec.css"]
