"""What can be wrong with settings and can be seen at once: before anything listens, is loaded or downloaded.

Imports neither torch nor gRPC, so that a mistyped flag costs no seconds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easyanim_server.config import coefficients, environment
from easyanim_server.config.model_checks import check_model
from easyanim_server.config.settings import SOCKET_SCHEMES, Settings
from easyanim_server.domain.errors import ConfigurationError

_COUNT_DEVICES = """
import ctypes
count = ctypes.c_int(0)
driver = ctypes.CDLL("libcuda.so.1")
driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
print(count.value)
"""
"""What torch asks as well; prints nothing without a driver."""


def check(settings: Settings) -> None:
    """Refuse settings that no model can be loaded with, as far as that can be told here.

    Raises:
        UnsupportedModel: there is no such model, or this server cannot run it.
        ConfigurationError: a file or a folder cannot be used.
    """
    check_model(settings.model, settings.revision)
    check_files(settings)


def check_files(settings: Settings) -> None:
    """Refuse files and folders that cannot be used.

    Raises:
        ConfigurationError: names the setting, its value, and what is in the way.
    """
    if settings.cache_coefficients is not None:
        coefficients.read(settings.cache_coefficients)
    environment.temporary_folder()
    check_folder("cache_dir", environment.cache_folder(settings.cache_dir))


def check_folder(name: str, folder: Path) -> None:
    """Refuse a folder that can neither be written nor made; nothing is made now.

    Args:
        name: Of the setting.
        folder: Its value.

    Raises:
        ConfigurationError: names both, and what is in the way.
    """
    reason = environment.not_writable(folder)
    if reason:
        raise ConfigurationError(f"{name} {str(folder)!r} cannot be written: {reason}")


def check_device(device: str) -> None:
    """Refuse a CUDA device where the driver has none, before anything listens.

    Raises:
        ConfigurationError: names the device, and what there is.
    """
    kind, _, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise ConfigurationError(f"device {device!r} must be auto, cpu, cuda or cuda:N")
    if kind != "cuda":
        return
    count = _cuda_devices()
    if int(number or 0) >= count:
        raise ConfigurationError(
            f"device {device!r} is not there; this machine has {count} CUDA devices that it may use"
        )


def _cuda_devices() -> int:
    """Devices that CUDA offers to this process; asked in another one, since the driver keeps what it opens."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", _COUNT_DEVICES], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return int(ran.stdout or 0)


def check_new_file(file: Path, *, force: bool = False) -> None:
    """Refuse a file that is there or cannot be written, before the work that it is for.

    Args:
        file: Where to.
        force: Whether one that is there is to be replaced.

    Raises:
        ConfigurationError: names it, and what is in the way.
    """
    if file.is_dir():
        raise ConfigurationError(f"{str(file)!r} cannot be written: it is a folder; name a file in it")
    if not file.absolute().parent.is_dir():
        raise ConfigurationError(f"{str(file)!r} cannot be written: there is no folder {file.absolute().parent}")
    if file.exists() and not force:
        raise ConfigurationError(f"{str(file)!r} exists already; --force replaces it")
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise ConfigurationError(f"{str(file)!r} cannot be written: no permission")


def check_address(listen: str) -> None:
    """Refuse an address that cannot be listened on now; what gRPC says of it itself names no reason.

    Raises:
        ConfigurationError: names the address and the reason.
    """
    scheme, _, place = listen.partition(":")
    if scheme in SOCKET_SCHEMES:
        refused = _abstract_refusal(place) if scheme == "unix-abstract" else _socket_refusal(Path(place))
        if refused:
            raise ConfigurationError(f"cannot listen on {listen!r} (listen): {refused}")
        return
    host, _, port = listen.rpartition(":")
    name = host.strip("[]") or None
    try:
        found = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {listen!r} (listen): {error.strerror or error}") from error
    failures = [failure for family, *_, address in found if (failure := _bind_error(family, address))]
    if any(failure.errno == errno.EADDRINUSE for failure in failures):
        taken = os.strerror(errno.EADDRINUSE)
        raise ConfigurationError(
            f"cannot listen on {listen!r} (listen): {taken}; take another port, or 0 for a free one"
        )
    if len(failures) == len(found):  # of two, on a machine without IPv6 one fails
        raise ConfigurationError(f"cannot listen on {listen!r} (listen): {failures[0].strerror}")


@contextmanager
def alone_at(listen: str) -> Iterator[None]:
    """Check an address, and keep other servers from doing so until it is bound, which gRPC does within.

    gRPC replaces a socket in the file system, whoever listens on it; two servers that start at the same moment would
    both find it free. The lock is on the folder, so that no file stays behind.

    Raises:
        ConfigurationError: as `check_address`.
    """
    scheme, _, place = listen.partition(":")
    if scheme != "unix":
        yield  # the system itself refuses the second one
        return
    check_address(listen)
    folder = os.open(Path(place).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        check_address(listen)
        yield
    finally:
        os.close(folder)


MAX_SOCKET_PATH = 107
"""Bytes that the system takes as the name of a socket."""

SOMEBODY = "another server listens there; stop it, or take another name"


def _socket_refusal(path: Path) -> str | None:
    """Why there can be no socket of that name in the file system; what a dead server left is replaced."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        return f"the path has more than {MAX_SOCKET_PATH} bytes"
    if not path.absolute().parent.is_dir():
        return f"there is no folder {path.absolute().parent}"
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        return f"no permission to write in {path.absolute().parent}"
    if not path.exists():
        return None
    if not path.is_socket():
        return "there is a file of that name, and it is no socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        failure = probe.connect_ex(str(path))
    return None if failure in (errno.ECONNREFUSED, errno.ENOENT) else SOMEBODY


def _abstract_refusal(name: str) -> str | None:
    if len(os.fsencode(name)) > MAX_SOCKET_PATH:
        return f"the name has more than {MAX_SOCKET_PATH} bytes"
    failure = _bind_error(socket.AF_UNIX, f"\0{name}")
    if failure is None:
        return None
    return SOMEBODY if failure.errno == errno.EADDRINUSE else failure.strerror


def _bind_error(family: int, address: tuple[Any, ...] | str) -> OSError | None:
    """Why an address cannot be had, if so; it is given back at once."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: calls that have ended linger
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error
    return None
