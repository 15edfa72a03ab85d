"""Whether requests are served."""

from __future__ import annotations

from enum import Enum


class ServerState(Enum):
    """Whether requests are served; values are the contract's enum names less their prefix."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    DRAINING = "DRAINING"
