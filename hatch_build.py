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
    """Puts the folders of sources before the installed packages, where a plain .pth would put them at the end."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to an editable wheel; other wheels stay without files."""
        if version != "editable":
            return
        folders = [str(Path(self.root, name)) for name in FOLDERS]
        file = Path(tempfile.mkdtemp(), "easyanim.pth")
        # Once: pip reads such files again within a process, and takes what they add at the end for what to leave out.
        once = f"sys.path[i:i] = [] if {folders[0]!r} in sys.path else {folders!r}"
        line = f"import sys; i = [path[-9:] for path in sys.path].index('-packages'); {once}\n"
        file.write_text(line, encoding="utf-8")
        build_data["force_include_editable"] = {str(file): file.name}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file."""
        for file in map(Path, build_data["force_include_editable"]):
            file.unlink()
            file.parent.rmdir()
