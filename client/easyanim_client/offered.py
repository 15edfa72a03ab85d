"""What of a generation's arguments a server would refuse, as far as its info tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from easyanim_client.errors import Violation
from easyanim_client.served import ServerInfo


def refused(arguments: Mapping[str, Any], served: ServerInfo) -> list[Violation]:
    """Every argument of `Client.generate` that this server does not offer: size, steps, profile, solver and pictures.

    Args:
        arguments: Of the generation; those that are left out are the server's to choose.
        served: What the server offers; where it says nothing of something, nothing of that is refused.
    """
    wrong = []
    name, frames, steps, profile = (arguments.get(field) for field in ("bucket", "frames", "steps", "profile"))
    named = {item.name: item for item in served.buckets}
    if name is not None and named and name not in named:
        wrong.append(Violation("bucket", f"is {name!r}; must be one of {', '.join(named)}"))
    offered = [named[name]] if name in named else served.buckets
    counts = sorted({count for item in offered for count in item.frame_counts})
    if frames is not None and counts and frames not in counts:
        where = f" in bucket {name}" if name in named else ""
        allowed = ", ".join(map(str, counts))
        wrong.append(Violation("frame_count", f"is {frames}; must be one of {allowed}{where}"))
    most = served.limits.max_steps
    if steps is not None and most and not 1 <= steps <= most:
        wrong.append(Violation("step_count", f"is {steps}; must be from 1 to {most}"))
    profiles = [item.name for item in served.profiles]
    if profile is not None and profiles and profile not in profiles:
        wrong.append(Violation("profile", f"is {profile!r}; must be one of {', '.join(profiles)}"))
    solver = arguments.get("solver")
    if solver is not None and served.solvers and solver not in served.solvers:
        allowed = ", ".join(served.solvers)
        wrong.append(Violation("acceleration.solver", f"is {solver!r}; must be one of {allowed}"))
    return wrong + _wrong_pictures(arguments, served.tasks)


def _wrong_pictures(arguments: Mapping[str, Any], tasks: Sequence[str]) -> list[Violation]:
    """Pictures that the model makes nothing of; none where the server does not say."""
    given = [name for name in ("start_image", "end_image") if arguments.get(name) is not None]
    task = "start_end" if "end_image" in given else "start"
    if not given or not tasks or task in tasks:
        return []
    known = f"the model's tasks are {', '.join(tasks)}, and this would be {task}"
    fields = given[-1:] if "start" in tasks else given
    return [Violation(name, f"must be left out: {known}") for name in fields]
