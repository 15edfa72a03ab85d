"""What an editable install of the clone adds: its folders come before the installed client and server.

`pip install -e '.[dev]'` installs both as every other dependency, as copies; pip knows no editable dependencies.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("proto", "client", "server")


class EditableFolders(BuildHookInterface):
    """Puts the folders of sources at the start of `sys.path`, where a plain .pth would put them at its end."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to an editable wheel; other wheels stay without files."""
        if version != "editable":
            return
        folders = [str(Path(self.root, name)) for name in FOLDERS]
        file = Path(tempfile.mkdtemp(), "easyanim.pth")
        file.write_text(f"import sys; sys.path[0:0] = {folders!r}\n", encoding="utf-8")
        build_data["force_include_editable"] = {str(file): file.name}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file."""
        for file in map(Path, build_data["force_include_editable"]):
            file.unlink()
            file.parent.rmdir()
