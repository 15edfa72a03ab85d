"""What trades quality for time, by name: the accelerators, and the profiles that combine them.

The combinations are chosen from what `make quality` measures with `builtin:demo`; on the published weights none was
measured. `docs/concepts.md` has the numbers, and where they are not what the rules of docs/quality.md choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Solver(Enum):
    """How a step is taken along the predicted velocity; values are the contract's."""

    EULER = "euler"
    """First order; what EasyAnimate V5.1 was published with."""
    UNIPC = "unipc"
    """Second order, predictor and corrector."""
    DPMPP_2M = "dpmpp_2m"
    """Second order, from the two latest predictions."""
    DDIM = "ddim"
    """First order, along the timesteps of training; what EasyAnimate V5 was published with."""


@dataclass(frozen=True, slots=True)
class Acceleration:
    """Each accelerator's setting; the defaults switch all of them off."""

    solver: Solver = Solver.EULER
    cache_threshold: float = 0.0
    """Accumulated relative change up to which a step reuses what the blocks did; 0 is off."""
    guidance_start: float = 0.0
    """Share of the steps before which guidance is left out."""
    guidance_end: float = 1.0
    """Share of the steps from which on guidance is left out."""

    def guides(self, step: int, steps: int) -> bool:
        """Whether a step, counted from 0, has guidance where the job has it."""
        return self.guidance_start <= step / steps < self.guidance_end


NO_ACCELERATION = Acceleration()


@dataclass(frozen=True, slots=True)
class Profile:
    """Steps and accelerators that go together; a request's own values go before them."""

    steps: int
    acceleration: Acceleration = NO_ACCELERATION


PROFILES = {
    "exact": Profile(35),
    "balanced": Profile(25, Acceleration(Solver.UNIPC)),
    "fast": Profile(20, Acceleration(Solver.UNIPC)),
    "draft": Profile(9, Acceleration(Solver.UNIPC)),
}
"""From the most faithful to the quickest."""

DEFAULT_PROFILE = "exact"
MAX_CACHE_THRESHOLD = 10.0
