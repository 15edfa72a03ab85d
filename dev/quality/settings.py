"""What videos are made with: the reference, the article's steps, the profiles, and a grid of accelerators."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from easyanim_server.domain.job import DEFAULT_GUIDANCE
from easyanim_server.domain.profiles import DEFAULT_PROFILE, NO_ACCELERATION, PROFILES, Acceleration, Solver
from easyanim_server.engine.families.easyanimate_v51 import schedule
from easyanim_server.engine.solvers import base, dpmpp_2m, multistep, unipc
from easyanim_server.engine.step_cache import teacache as stepcache

REFERENCE_STEPS = 200
ARTICLE_STEPS = (25, 35, 50, 75)
USUAL_STEPS = 50
"""What savings are counted against: Euler with guidance at every step."""


@dataclass(frozen=True)
class Setting:
    """How a video is made."""

    steps: int
    acceleration: Acceleration = NO_ACCELERATION

    @property
    def name(self) -> str:
        """All that it says, in short, such as ``unipc 20, cache 0.08, guidance to 75 %``."""
        used = self.acceleration
        words = [f"{used.solver.value} {self.steps}"]
        if used.cache_threshold:
            words.append(f"cache {used.cache_threshold:g}")
        if (used.guidance_start, used.guidance_end) != (0.0, 1.0):
            from_ = f"from {used.guidance_start:.0%} " if used.guidance_start else ""
            words.append(f"guidance {from_}to {used.guidance_end:.0%}".replace("%", " %"))
        return ", ".join(words)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Setting:
        """Read a row of results."""
        words = ("cache_threshold", "guidance_start", "guidance_end")
        return cls(row["steps"], Acceleration(Solver(row["solver"]), **{word: row[word] for word in words}))

    def row(self) -> dict[str, Any]:
        """The reverse of `of`."""
        used = asdict(self.acceleration) | {"solver": self.acceleration.solver.value}
        return {"what": "setting", "setting": self.name, "code": self.code, "steps": self.steps, **used}

    @property
    def code(self) -> str:
        """SHA-256 of the code of its accelerators, hex, shortened; empty where there are none."""
        own = {Solver.UNIPC: unipc, Solver.DPMPP_2M: dpmpp_2m}.get(self.acceleration.solver)
        files = [module.__file__ for module in (own, base, multistep, schedule)] if own is not None else []
        files += [stepcache.__file__] if self.acceleration.cache_threshold else []
        return (
            hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in files)).hexdigest()[:12] if files else ""
        )

    def predictions(self, guidance: float = DEFAULT_GUIDANCE) -> int:
        """Passes through the transformer where none is reused."""
        guided = sum(self.acceleration.guides(step, self.steps) for step in range(self.steps))
        return self.steps + (guided if guidance > 1 else 0)


REFERENCE = Setting(REFERENCE_STEPS)
PROFILE_SETTINGS = {name: Setting(profile.steps, profile.acceleration) for name, profile in PROFILES.items()}
DEFAULT = PROFILE_SETTINGS[DEFAULT_PROFILE]
ARTICLE = tuple(Setting(steps) for steps in ARTICLE_STEPS)


def grid() -> list[Setting]:
    """What the front is looked for among: few predictions first, so that what is cut off is the expensive end."""

    def unipc(steps: int, **others: float) -> Setting:
        return Setting(steps, Acceleration(Solver.UNIPC, **others))

    settings = [Setting(steps) for steps in (15, 20, 25, 35)]
    settings += [unipc(steps) for steps in (8, 9, 12, 16, 18, 20, 25)]
    settings += [Setting(steps, Acceleration(Solver.DPMPP_2M)) for steps in (9, 18)]
    settings += [unipc(steps, guidance_end=0.75) for steps in (12, 20)]
    settings += [unipc(9, guidance_start=0.1)]
    settings += [unipc(steps, cache_threshold=threshold) for steps in (20, 25) for threshold in (0.05, 0.1)]
    settings += [unipc(12, cache_threshold=0.1)]
    settings += [Setting(35, Acceleration(cache_threshold=threshold)) for threshold in (0.1, 0.2)]
    found = dict.fromkeys([*PROFILE_SETTINGS.values(), *settings])
    return sorted(found, key=lambda setting: (setting.predictions(), setting.steps, setting.name))
