"""The file that `fit-cache` writes and `cache_coefficients` names: one reader for the front and the engine."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from easyanim_server.domain.errors import ConfigurationError

DEGREE = 4
"""Of the step cache's polynomial."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """A fitted polynomial, and the model that it was fitted to."""

    values: tuple[float, ...]
    """Highest power first."""
    model_fingerprint: str


def read(file: Path) -> Coefficients:
    """Read such a file.

    Raises:
        ConfigurationError: it cannot be read, or has another form.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
        values = tuple(float(value) for value in document["coefficients"])
        fingerprint = str(document["model_fingerprint"])
    except OSError as error:
        raise ConfigurationError(f"cache_coefficients {str(file)!r} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"cache_coefficients {str(file)!r} was not written by fit-cache, whose have a model_fingerprint"
        ) from error
    if len(values) != DEGREE + 1 or not all(map(math.isfinite, values)):
        raise ConfigurationError(f"cache_coefficients {str(file)!r} must have {DEGREE + 1} finite numbers")
    return Coefficients(values, fingerprint)
