"""AsyncClient: the service from asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import grpc
import grpc.aio

from easyanim_client.calls import Given, Metadata
from easyanim_client.context import Context
from easyanim_client.core import (
    CHANNEL_OPTIONS,
    COMPRESSION,
    INQUIRY_TIMEOUT,
    BaseClient,
    BaseGeneration,
    check_address,
    credentials,
)
from easyanim_client.errors import Cancelled
from easyanim_client.messages import prompt_reading
from easyanim_client.results import Event, PromptReading, Video
from easyanim_client.served import ServerInfo


@contextmanager
def _told_apart(ended_by_us: Callable[[], bool]) -> Iterator[None]:
    """Make `Cancelled` of the end of a call that `cancel` or `close` brought; a task's own cancellation goes on.

    grpc.aio reports both as `CancelledError`.
    """
    try:
        yield
    except asyncio.CancelledError:
        # Only since Python 3.11 can a task be asked; before, one that is cancelled as its call ends hears `Cancelled`.
        cancelling = getattr(asyncio.current_task(), "cancelling", int)()
        if cancelling or not ended_by_us():
            raise
        raise Cancelled("the call was cancelled") from None


class AsyncGeneration(BaseGeneration):
    """One generation: iterate it for its events, or await its `result`.

    Cancelling the task that does so cancels the work on the server.
    """

    def __aiter__(self) -> AsyncIterator[Event]:
        """Send the request and yield its events; the last one is the `Video`.

        Raises:
            EasyAnimError: see `easyanim_client.errors`; nothing is left on disk then.
            OSError: the file cannot be written.
            RuntimeError: it was iterated before.
        """
        return self._begun(self._events())

    async def _events(self) -> AsyncIterator[Event]:
        with self._running() as call, _told_apart(lambda: self._cancelled or self._closed()):
            async for message in call:
                event = self._fold(message)
                if event is not None:
                    yield event
            yield self._finish()

    async def result(self) -> Video:
        """Wait for the video; goes on with an iteration that is under way, and raises what it raises."""
        if self._video is None:
            async for _ in self._rest():
                pass
        return self._result()


class AsyncClient(BaseClient[AsyncGeneration]):
    """Talks to one server from the event loop that it was created in. Closing it cancels what still runs.

    Args:
        address: Host and port, such as ``localhost:50051``.
        tls: False for plain text, True for TLS with gRPC's own roots, or credentials for anything else.
        timeout: Seconds that each generation may take; None is no limit.

    Raises:
        InvalidRequest: the address is not a host and a port.
        UnusableClient: gevent has patched threading, or this process is a fork of one that made a client.
        RuntimeError: no event loop is running.
    """

    def __init__(
        self, address: str, *, tls: bool | grpc.ChannelCredentials = False, timeout: float | None = None
    ) -> None:
        # Without a running loop the channel would tie itself to another one than that which awaits it.
        context = Context(asyncio.get_running_loop())
        check_address(address)
        secrets = credentials(tls)
        self._channel = (
            grpc.aio.secure_channel(address, secrets, CHANNEL_OPTIONS, COMPRESSION)
            if secrets
            else grpc.aio.insecure_channel(address, CHANNEL_OPTIONS, COMPRESSION)
        )
        super().__init__(self._channel, AsyncGeneration, timeout, context)

    async def info(
        self, *, timeout: float = INQUIRY_TIMEOUT, request_id: str | None = None, metadata: Given = ()
    ) -> ServerInfo:
        """What the server serves; later requests are checked against its size limit.

        Args:
            timeout: Seconds to wait.
            request_id: Names the call in the server's log, as of `generate`. Default: random.
            metadata: Sent with the call, as of `generate`.

        Raises:
            EasyAnimError: the server cannot be reached or does not answer.
        """
        with self._answered(request_id, metadata) as sent:
            return self._read_info(await self._ask_info(timeout, sent))

    async def lint_prompt(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        timeout: float = INQUIRY_TIMEOUT,
        request_id: str | None = None,
        metadata: Given = (),
    ) -> PromptReading:
        """How the model would read a prompt, without generating anything; never changes a text.

        Args:
            prompt: What happens in the video.
            negative_prompt: What to avoid; empty means nothing. Default: what the model's authors recommend.
            timeout: Seconds to wait.
            request_id: Names the call in the server's log, as of `generate`. Default: random.
            metadata: Sent with the call, as of `generate`.

        Raises:
            InvalidRequest: a text is empty or too long.
            EasyAnimError: the server cannot be reached, or its model was not loaded yet.
        """
        with self._answered(request_id, metadata) as sent:
            return prompt_reading(await self._ask_lint(prompt, negative_prompt, timeout, sent))

    async def health(self, *, timeout: float = INQUIRY_TIMEOUT, metadata: Given = ()) -> bool:
        """Whether the server is ready: its model loaded and every bucket warm.

        Args:
            timeout: Seconds to wait.
            metadata: Sent with the call, as of `generate`.

        Raises:
            EasyAnimError: the server cannot be reached or does not answer.
        """
        with self._answered(None, metadata) as sent:
            return self._read_health(await self._ask_health(timeout, sent))

    async def close(self) -> None:
        """Close the connection; without effect in a fork, whose parent goes on with it."""
        self._closed = True
        if self._context.is_of_this_process:
            await self._channel.close()

    @contextmanager
    def _answered(self, request_id: str | None, metadata: Given) -> Iterator[Metadata]:
        with self._call(request_id, metadata) as sent, _told_apart(lambda: self._closed):
            yield sent

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
