"""What requests get that leave out guidance, steps and size: values of a model, not of a server."""

from __future__ import annotations

from dataclasses import dataclass, replace

from easyanim_server.domain.job import DEFAULT_GUIDANCE, DEFAULT_STEPS, Bucket
from easyanim_server.domain.profiles import DEFAULT_PROFILE, PROFILES, Profile

PUBLISHED_BUCKETS = (
    "384x672", "672x384", "512x512", "576x1008", "1008x576", "768x1344", "1344x768",
)  # fmt: skip
"""The sizes that the model's authors publish times for; 49 frames each."""

TINY_BUCKETS = ("96x160", "160x96", "128x128", "96x160x25", "128x128x25", "96x160x13", "128x128x5")
"""Sizes for `builtin:tiny`, quick on a laptop's CPU."""


def parsed(names: tuple[str, ...]) -> tuple[Bucket, ...]:
    """Buckets by their names, such as ``384x672``."""
    return tuple(Bucket.parse(name) for name in names)


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """Values for what requests and the operator leave out; those of the published models by default."""

    guidance: float = DEFAULT_GUIDANCE
    steps: int = DEFAULT_STEPS
    """Of the profile ``exact``; the other profiles have their own numbers."""
    buckets: tuple[Bucket, ...] = parsed(PUBLISHED_BUCKETS)
    """What is served where the operator names no buckets, in order of preference: the first is for requests that name
    no size and have no picture."""

    def profile(self, name: str) -> Profile:
        """What a profile sets on this model.

        Raises:
            KeyError: there is no such profile.
        """
        profile = PROFILES[name]
        return replace(profile, steps=self.steps) if name == DEFAULT_PROFILE else profile


PUBLISHED = ModelDefaults()
