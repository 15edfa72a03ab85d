"""The file that `easyanim-server tune` writes and `serve --tuned` reads: settings, and where they were measured.

It is JSON with three keys. `header` says what was measured, where and when; `settings` has values of `Settings`, which
stand below flags, environment and TOML file and above the built-in defaults; `measurements` are the rows behind them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyanim_server.domain.errors import ConfigurationError

TUNABLE = ("model", "buckets", "placement", "backend", "precision")
"""The settings that a tuning file may have."""

KIND = "easyanim tuning 1"
"""What such a file calls itself."""


@dataclass(frozen=True)
class Tuning:
    """What one run of the tuner found."""

    header: Mapping[str, Any]
    """At least ``model``, ``device`` (the device's name as its maker calls it) and ``date``."""
    settings: Mapping[str, str]
    """Values of those among `TUNABLE` that it decided."""
    measurements: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def model(self) -> str:
        """What was measured."""
        return str(self.header["model"])

    @property
    def source(self) -> str:
        """Where the settings come from, in a few words."""
        return f"tuned on {self.header['device']}, {str(self.header['date'])[:10]}"

    def require_model(self, model: str, file: Path) -> None:
        """Refuse another model than the one that was measured.

        Raises:
            ConfigurationError: it is another one.
        """
        if model != self.model:
            raise ConfigurationError(
                f"tuned={str(file)!r} was measured with model {self.model!r}, not {model!r}; leave --model out, or "
                f"measure it: easyanim-server tune --model {model}"
            )

    def require_device(self, device: str, file: Path) -> None:
        """Refuse another device than the one that was measured.

        Raises:
            ConfigurationError: it is another one.
        """
        if device != self.header["device"]:
            raise ConfigurationError(
                f"tuned={str(file)!r} was measured on {self.header['device']!r}, and this is {device!r}; leave --tuned "
                "out, or measure here: easyanim-server tune"
            )


def write(file: Path, tuning: Tuning) -> None:
    """Write a tuning file; its folder is made if absent."""
    document = {
        "kind": KIND,
        "header": dict(tuning.header),
        "settings": dict(tuning.settings),
        "measurements": [dict(row) for row in tuning.measurements],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(file: Path) -> Tuning:
    """Read a tuning file.

    Raises:
        ConfigurationError: it is absent, is none, or sets what no tuning file may.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"tuned={str(file)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"tuned={str(file)!r} is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ConfigurationError(f"tuned={str(file)!r} is not a file that `easyanim-server tune` wrote ({KIND!r})")
    header, settings = document.get("header"), document.get("settings")
    if not isinstance(header, dict) or not isinstance(settings, dict) or not {"model", "device", "date"} <= {*header}:
        raise ConfigurationError(f"tuned={str(file)!r} needs settings, and a header with model, device and date")
    unknown = sorted({*settings} - {*TUNABLE})
    if unknown:
        raise ConfigurationError(f"tuned={str(file)!r} sets {', '.join(unknown)}; allowed are {', '.join(TUNABLE)}")
    return Tuning(header, settings, document.get("measurements", []))
