"""One thing that `easyanim-server doctor` looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What was looked at, and how it is."""

    subject: str
    detail: str
    fatal: bool = False
    """Whether `serve` with these settings cannot work."""
    doubtful: bool = False
    """Whether it can, and will hardly be of use."""

    @property
    def status(self) -> Literal["ok", "warn", "missing"]:
        """In one word."""
        return "missing" if self.fatal else "warn" if self.doubtful else "ok"
