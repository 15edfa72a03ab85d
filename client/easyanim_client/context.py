"""Where a client can work: the process and the event loop that it was made in, and what gevent needs."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from easyanim_client.errors import UnusableClient

FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
"""Environment variable that lets a fork open blocking channels of its own where its parent had some; off by default."""
_TRUE = frozenset(("1", "y", "yes", "t", "true"))

_made_here = False
"""Whether a client was made in this process or in one that it was forked from."""
_forked_after_clients = False
"""Whether this process was forked after a client had been made. Closing that client does not help: gRPC ends its
threads some time after the channel, nothing says when, and a lock held at the fork stays locked in the child."""


class Context:
    """The process, and for `AsyncClient` the event loop, in which a client was made.

    Raises:
        UnusableClient: no client can work here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        _check_gevent(loop is not None)
        supported = loop is None and os.environ.get(FORK_SUPPORT, "").lower() in _TRUE
        if _forked_after_clients and not supported:
            raise UnusableClient(
                "this process was forked from one that had made a client, closed or not, and gRPC can hang here; "
                'start processes with multiprocessing.get_context("spawn"), make the first client after forking, '
                f"or set {FORK_SUPPORT}=1 before the start and use Client"
            )
        self._process = os.getpid()
        self._loop = loop
        _note_client()

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


def _note_client() -> None:
    global _made_here
    _made_here = True


def _note_fork() -> None:
    global _forked_after_clients
    _forked_after_clients = _made_here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
