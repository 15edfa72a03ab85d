"""What requests get that leave out guidance, steps and size: values of a model, not of a server."""

from __future__ import annotations

from dataclasses import dataclass, replace

from easyanim_server.domain.job import DEFAULT_GUIDANCE, DEFAULT_STEPS, Bucket
from easyanim_server.domain.profiles import DEFAULT_PROFILE, NO_ACCELERATION, PROFILES, Profile, Solver


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """Values for what requests and the operator leave out."""

    guidance: float = DEFAULT_GUIDANCE
    steps: int = DEFAULT_STEPS
    """Of the profile ``exact``; the other profiles have their own numbers."""
    buckets: tuple[Bucket, ...] = ()
    """What is served where the operator names no buckets, in order of preference: the first is for requests that name
    no size and have no picture."""
    noise_augmentation: float = 0.0
    """Standard deviation of the noise on given pictures, whose range is [-1, 1], that the model was trained with."""

    solver: Solver = Solver.EULER
    """What the model was published with, and profiles have that name no other."""

    def profile(self, name: str) -> Profile:
        """What a profile sets on this model.

        Raises:
            KeyError: there is no such profile.
        """
        profile = PROFILES[name]
        if profile.acceleration.solver is NO_ACCELERATION.solver:
            profile = replace(profile, acceleration=replace(profile.acceleration, solver=self.solver))
        return replace(profile, steps=self.steps) if name == DEFAULT_PROFILE else profile
