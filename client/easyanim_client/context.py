"""Where a client can work: the process and the event loop that it was made in, and what gevent needs."""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from typing import Any

from easyanim_client.errors import UnusableClient

FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
"""Environment variable that lets a fork open blocking channels of its own while its parent has some; off by default."""
_TRUE = frozenset(("1", "y", "yes", "t", "true"))

_open: weakref.WeakSet[Context] = weakref.WeakSet()
"""Of the clients that are open in this process."""
_forked_with_open_clients = False


class Context:
    """The process, and for `AsyncClient` the event loop, in which a client was made.

    Raises:
        UnusableClient: no client can work here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        _check_gevent(loop is not None)
        supported = loop is None and os.environ.get(FORK_SUPPORT, "").lower() in _TRUE
        if _forked_with_open_clients and not supported:
            raise UnusableClient(
                "this process was forked from one that had a client open, and gRPC confuses its connections with new "
                'ones; start processes with multiprocessing.get_context("spawn"), make the first client after forking, '
                f"or set {FORK_SUPPORT}=1 before the start and use Client"
            )
        self._process = os.getpid()
        self._loop = loop
        _open.add(self)

    def check(self) -> None:
        """Refuse a use in which gRPC would hang, or read another process's answers.

        Raises:
            UnusableClient: the client was made in another process or for another event loop.
        """
        if self._process != os.getpid():
            raise UnusableClient(
                f"the client was made in process {self._process} and this is its fork {os.getpid()}; "
                "make a client in each process, after the fork"
            )
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise UnusableClient(
                "the client was made in another event loop, to which its connection is tied; "
                "make an AsyncClient in each loop, or one Client for all threads"
            )

    @property
    def is_of_this_process(self) -> bool:
        """Whether the client was made here, and not in the process that this one was forked from."""
        return self._process == os.getpid()

    def close(self) -> None:
        """Forget the client: a fork cannot harm it any more."""
        _open.discard(self)


def _check_gevent(in_event_loop: bool) -> None:
    """Refuse to hang: gRPC waits in native code, for ever where threads became greenlets that share one thread."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    if in_event_loop:
        raise UnusableClient(
            "asyncio's gRPC cannot run where gevent has patched threading; use Client, after "
            "grpc.experimental.gevent.init_gevent()"
        )
    native = sys.modules.get("grpc._cython.cygrpc")
    if not getattr(native, "g_gevent_activated", "grpc.experimental.gevent" in sys.modules):
        raise UnusableClient(
            "gevent has patched threading, and gRPC would block all greenlets; call "
            "grpc.experimental.gevent.init_gevent() after monkey.patch_all() and before the first client"
        )


def _note_fork() -> None:
    global _forked_with_open_clients
    _forked_with_open_clients = _forked_with_open_clients or bool(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
