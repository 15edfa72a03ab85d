"""Where a file goes: never over another one unless that was asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Literal

Overwrite = bool | Literal["number"]
"""What becomes of an older file of the name: False keeps it and refuses the work, True replaces it, ``"number"`` keeps
it and takes the next free name, such as ``cat-2.mp4``."""


def check_target(target: Path, overwrite: Overwrite) -> None:
    """Refuse a name that is taken, before the work that the file is for.

    Raises:
        FileExistsError: there is a file of that name, or something that a file cannot replace.
    """
    if target.exists() and not target.is_file():
        # Moving the file into place would replace a device such as /dev/null by it.
        raise FileExistsError(errno.EEXIST, "exists and is not a regular file", str(target))
    if overwrite is False and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "exists already", str(target))


def move_into_place(partial: Path, target: Path, overwrite: Overwrite) -> Path:
    """Give a complete file its name; returns it.

    Without `overwrite` no file is replaced, not even one that appeared since `check_target`: the next free name is
    taken then, for the work is done and must not be lost.

    Raises:
        OSError: the folder cannot be written.
    """
    if overwrite is True:
        os.replace(partial, target)
        return target
    for name in _numbered(target):
        try:
            os.link(partial, name)  # unlike a rename, never over another file
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            try:
                name.open("xb").close()
            except FileExistsError:
                continue
            os.replace(partial, name)
            return name
        partial.unlink()
        return name
    raise AssertionError("there are always more numbers")


def _numbered(target: Path) -> Iterator[Path]:
    yield target
    for number in count(2):
        yield target.with_name(f"{target.stem}-{number}{target.suffix}")
