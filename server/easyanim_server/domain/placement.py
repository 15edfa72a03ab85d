"""Where weights are while they are not needed: how they move, and what they are stored in."""

from __future__ import annotations

from easyanim_server.domain.execution import Word


class Movement(Word):
    """How weights come to the device."""

    FULL = "full"
    """They stay there."""
    MODEL = "model_cpu_offload"
    """A network at a time."""
    GROUP = "group_offload"
    """A block at a time, copied ahead of the computing."""
    SEQUENTIAL = "sequential_cpu_offload"
    """A block at a time, copied when it is its turn."""


class Storage(Word):
    """What weights of the large products are stored in."""

    LOADED = "loaded"
    """The compute type."""
    QFLOAT8 = "qfloat8"
    """8 bits."""


class WeightPlacement(Word):
    """The placements that there are, by the names that settings, receipts and diffusers use."""

    FULL = "full"
    MODEL = "model_cpu_offload"
    GROUP = "group_offload"
    SEQUENTIAL = "sequential_cpu_offload"
    FULL_IN_8_BITS = "full_and_qfloat8"
    MODEL_IN_8_BITS = "model_cpu_offload_and_qfloat8"

    @property
    def movement(self) -> Movement:
        """How weights come to the device."""
        return _PARTS[self][0]

    @property
    def storage(self) -> Storage:
        """What the large ones are stored in."""
        return _PARTS[self][1]

    @property
    def in_8_bits(self) -> bool:
        """Whether weights are stored in 8 bits, which changes videos; nobody gets that without asking."""
        return self.storage is Storage.QFLOAT8

    @property
    def starts_on_host(self) -> bool:
        """Whether weights are loaded into host memory, to be moved or converted from there."""
        return self is not WeightPlacement.FULL


_PARTS = {
    WeightPlacement.FULL: (Movement.FULL, Storage.LOADED),
    WeightPlacement.MODEL: (Movement.MODEL, Storage.LOADED),
    WeightPlacement.GROUP: (Movement.GROUP, Storage.LOADED),
    WeightPlacement.SEQUENTIAL: (Movement.SEQUENTIAL, Storage.LOADED),
    WeightPlacement.FULL_IN_8_BITS: (Movement.FULL, Storage.QFLOAT8),
    WeightPlacement.MODEL_IN_8_BITS: (Movement.MODEL, Storage.QFLOAT8),
}

FASTEST_FIRST = tuple(placement for placement in WeightPlacement if not placement.in_8_bits)
"""Placements that change no bit of a video, in the order in which they are tried."""

IN_8_BITS = tuple(placement for placement in WeightPlacement if placement.in_8_bits)
"""Placements that change videos."""


class PlacementSetting(Word):
    """What `Settings.placement` may be: a placement, or auto for the fastest in which every bucket fits."""

    AUTO = "auto"
    FULL = "full"
    MODEL = "model_cpu_offload"
    GROUP = "group_offload"
    SEQUENTIAL = "sequential_cpu_offload"
    FULL_IN_8_BITS = "full_and_qfloat8"
    MODEL_IN_8_BITS = "model_cpu_offload_and_qfloat8"

    @property
    def placement(self) -> WeightPlacement | None:
        """The placement that is named; None where it is to be chosen."""
        return None if self is PlacementSetting.AUTO else WeightPlacement(self.value)
