"""Whether what networks compute are numbers: one NaN spreads to a whole video, which then looks black."""

from __future__ import annotations

from torch import Tensor

from easyanim_server.domain.errors import NonFinite


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; waits for the device."""
    return bool(tensor.isfinite().all())


def require_finite(tensor: Tensor, name: str) -> None:
    """Refuse values that are NaN or infinite; waits for the device.

    Args:
        tensor: Any shape and type.
        name: What it is, in the plural, for the message.

    Raises:
        NonFinite: says how many there are.
    """
    if not is_finite(tensor):
        raise NonFinite(f"{missing(tensor)} of {name} are NaN or infinite")


def missing(tensor: Tensor) -> str:
    """Share of the values that are no finite numbers, in percent."""
    return f"{100 * (1 - tensor.isfinite().float().mean().item()):.3g} %"
