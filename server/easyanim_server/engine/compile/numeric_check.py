"""What a path through the network has to pass before it serves: nearness to the eager network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from easyanim_server.engine.finite import is_finite, missing

FACTORS = {"float32": 4.0, "float16": 2.0, "bf16": 2.0, "fp8": 8.0, "fp8-weights": 8.0}
"""How many times as far from float32 as the eager network a path may be, by precision. See docs/performance.md."""

ROUNDING = 1e-5
"""Least error that is told apart from none: float32's own, through all blocks."""


@dataclass(frozen=True)
class NumericCheck:
    """Of one bucket."""

    reference: Tensor | None
    """The eager network's prediction; None where that is what serves, and nothing is compared."""
    rounding: float
    """How far the eager network itself is from float32."""
    factor: float
    """One of `FACTORS`."""

    def check(self, predicted: Tensor) -> float:
        """Relative L2 of a prediction from the eager network's.

        Raises:
            ArithmeticError: it is too far away, or has values that are NaN or infinite.
        """
        if not is_finite(predicted):
            raise ArithmeticError(f"{missing(predicted)} of the prediction are NaN or infinite")
        if self.reference is None:
            return 0.0
        error = relative_l2(predicted, self.reference)
        # Where a path and the eager network err independently, each by its own distance from float32, the distance
        # between them is at most the sum.
        limit = (self.factor + 1) * self.rounding
        if not error <= limit:  # NaN too
            raise ArithmeticError(f"relative L2 {error:.3g} from the eager network; the gate is {limit:.3g}")
        return error

    def cosine(self, predicted: Tensor) -> float:
        """Cosine of the angle between a prediction and the eager network's; NaN where a value is not finite."""
        if self.reference is None and is_finite(predicted):
            return 1.0
        return cosine(predicted, predicted if self.reference is None else self.reference)


def relative_l2(result: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference, in float32."""
    reference = reference.float()
    return float((result.float() - reference).norm() / reference.norm())


def cosine(result: Tensor, reference: Tensor) -> float:
    """Cosine of the angle between two results, as vectors in float32."""
    result, reference = result.float().flatten(), reference.float().flatten()
    return float(result @ reference / (result.norm() * reference.norm()))
