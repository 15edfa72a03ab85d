"""What this machine is, as far as that can be said without torch."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def processor_quota(cgroup: Path = CGROUP, mounted: Path = CGROUPS) -> float | None:
    """Processors that this process's control groups let it use, as ``docker run --cpus`` sets it; None without a limit.

    Neither the number of processors nor the affinity mask shows such a limit, so libraries start a thread for each
    processor of the machine.

    Args:
        cgroup: The kernel's list of this process's groups, of version 1 or 2.
        mounted: Where the groups' files are.
    """
    try:
        lines = cgroup.read_text(encoding="utf-8-sig").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounted / "cpu" if controllers else mounted
        # A parent limits its groups too. In a container the path may be the host's, and its own files at the top.
        own = top / path.lstrip("/")
        folders = [own, *own.parents] if own != top else [top]
        quotas += [_quota(folder) for folder in folders if folder.is_relative_to(top)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    """Processors of one group: quota by period, in microseconds; None without a limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8-sig").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8-sig") for name in ("quota", "period")
            )
        limit = int(quota) / int(period)
    except (OSError, ValueError):  # "max", or a file that is not there
        return None
    return limit if limit > 0 else None  # -1 is no limit


def processor() -> str:
    """Name of the processor as its maker calls it; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8-sig").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
