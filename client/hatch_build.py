"""Brings the contract's stubs into the distributions; they lie beside the contract that they are generated from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "easyanim"


class Stubs(BuildHookInterface):
    """Adds them to wheel and sdist; a wheel that is built from an sdist finds them in there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the folder to take. An editable install has it in `dev-mode-dirs`."""
        inside = Path(self.root, PACKAGE)
        folder = inside if inside.is_dir() else Path(self.root).parent / "proto" / PACKAGE
        build_data["force_include"][str(folder)] = PACKAGE
