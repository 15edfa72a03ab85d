"""The words by which settings say how a model runs. Members are text: they are equal to what files and flags write."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """Text that is one of a few; prints as what is written."""

    __str__ = str.__str__


class Backend(Word):
    """What runs the denoiser's blocks."""

    AUTO = "auto"
    """Inductor on CUDA, eager on the CPU."""
    EAGER = "eager"
    INDUCTOR = "inductor"
    TENSORRT = "tensorrt"


class Precision(Word):
    """Type of the large products."""

    BF16 = "bf16"
    """The compute type, whichever it is."""
    FP8 = "fp8"


class Tiling(Word):
    """Whether the VAE works on overlapping tiles."""

    AUTO = "auto"
    """Where a bucket does not fit otherwise."""
    ON = "on"
    OFF = "off"

    @property
    def tried(self) -> tuple[bool, ...]:
        """Without tiles, with them, or first the one and then the other."""
        return {Tiling.OFF: (False,), Tiling.ON: (True,), Tiling.AUTO: (False, True)}[self]
