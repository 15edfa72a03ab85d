"""The process's own environment: a home, a user's name and folders for caches where the machine gives none.

Libraries read these variables while they are imported, so `prepare` comes before torch; child processes inherit them.
"""

from __future__ import annotations

import math
import os
import pwd
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from easyanim_server.config.processor import processor_quota
from easyanim_server.domain.errors import ConfigurationError

EMPTY_MEANS_UNSET = (
    "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_XET_CACHE", "HOME", "LOGNAME",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TMPDIR", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
    "TRITON_HOME", "USER", "XDG_CACHE_HOME",
)  # fmt: skip
"""Variables of libraries whose empty value, as compose files pass it, would otherwise mean the working directory, or
nothing that they understand."""

COMPILERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Where compilers keep what they make outside a server, which gives them folders of its own cache."""

OWN_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Any of these is an operator's own choice of how OpenMP's threads wait."""


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete the environment for libraries that take a user with a home for granted.

    Sets what is missing and changes nothing that can be used: ``USER`` without an entry in the password database,
    ``HOME`` where there is neither the variable nor an entry, compilers' folders where theirs cannot be written, and
    how OpenMP's threads wait and how many there are (`set_threads`).
    Without a writable temporary folder there is nothing to set them to; `temporary_folder` refuses that.

    Args:
        environment: Changed in place.
    """
    for name in EMPTY_MEANS_UNSET:
        if environment.get(name) == "":
            del environment[name]
    set_threads(environment, processor_quota())
    if _entry() is None and not environment.get("USER") and not environment.get("LOGNAME"):
        environment["USER"] = f"uid-{os.getuid()}"
    try:
        temporary_folder()
    except ConfigurationError:
        return
    if _entry() is None and not environment.get("HOME"):
        environment["HOME"] = str(_makeshift())
    triton = Path(environment.get("TRITON_HOME") or _home(environment)) / ".triton"
    defaults = {"TORCHINDUCTOR_CACHE_DIR": Path(temporary_folder()), "TRITON_CACHE_DIR": triton}
    for name in COMPILERS:
        chosen = environment.get(name)
        if not_writable(Path(chosen) if chosen else defaults[name]):
            environment[name] = str(_makeshift() / name.lower())


def temporary_folder() -> Path:
    """Where temporary files go.

    Raises:
        ConfigurationError: there is no folder for them that can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        tried = [os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/usr/tmp"]
        raise ConfigurationError(
            f"no temporary folder can be written: neither {', '.join(name for name in tried if name)} nor the working "
            "directory; set TMPDIR to one that can"
        ) from error


def cache_folder(chosen: Path | None = None) -> Path:
    """Where compiled code is kept.

    Args:
        chosen: As `Settings.cache_dir`. Default: ``$XDG_CACHE_HOME/easyanim``, or ``~/.cache/easyanim``; where that
            cannot be written, a folder among the temporary files.

    Raises:
        ConfigurationError: there is no default, for want of a temporary folder.
    """
    if chosen is not None:
        return chosen
    folder = Path(os.environ.get("XDG_CACHE_HOME") or _home(os.environ) / ".cache") / "easyanim"
    return _makeshift() / ".cache" / "easyanim" if not_writable(folder) else folder


def will_not_last(folder: Path) -> bool:
    """Whether a folder stands in for a cache, and goes with the machine's temporary files."""
    return folder.is_relative_to(_makeshift_path())


def not_writable(folder: Path) -> str | None:
    """Why files in a folder, or the folder itself where there is none, cannot be made; None where they can.

    Nothing is made now.
    """
    # Not `Path.exists`, which fails where a folder above may not be entered.
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.exists(place))
    if not there.is_dir():
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"no permission to write in {there}"
    return None


def set_threads(environment: MutableMapping[str, str], quota: float | None) -> None:
    """Make OpenMP's threads sleep while they wait, and no more of them than the container's quota has processors.

    A thread that spins while it waits takes the processor from the thread that it waits for, wherever other programs
    compute as well: on two busy cores a video took 226 s with threads that spin and 14 s with threads that sleep.
    """
    if not any(environment.get(name) for name in OWN_WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if quota is not None and "OMP_NUM_THREADS" not in environment:
        threads = max(1, math.ceil(quota))
        if threads < len(os.sched_getaffinity(0)):
            environment["OMP_NUM_THREADS"] = str(threads)


def _entry() -> pwd.struct_passwd | None:
    """The user in the password database; containers are often run as one who is not there."""
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None


def _home(environment: MutableMapping[str, str]) -> Path:
    entry = _entry()
    return Path(environment.get("HOME") or (entry.pw_dir if entry else "/"))


def _makeshift_path() -> Path:
    return temporary_folder() / f"easyanim-{os.getuid()}"


def _makeshift() -> Path:
    """A folder of this user's among the temporary files; compiled code is run, so nobody else may write there."""
    folder = _makeshift_path()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigurationError(f"{str(folder)!r} cannot be written: {error.strerror}") from error
    others = stat.S_IWGRP | stat.S_IWOTH
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & others:
        raise ConfigurationError(
            f"{str(folder)!r} would hold caches, and others can write it; remove it, or set HOME and cache_dir"
        )
    return folder
