"""Client: the service from ordinary, blocking code."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import grpc

from easyanim_client.calls import Given
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
from easyanim_client.messages import prompt_reading
from easyanim_client.results import Event, PromptReading, Video
from easyanim_client.served import ServerInfo


class Generation(BaseGeneration):
    """One generation: iterate it for its events, or ask for its `result`.

    `cancel` may be called from any thread.
    """

    def __iter__(self) -> Iterator[Event]:
        """Send the request and yield its events; the last one is the `Video`.

        Raises:
            EasyAnimError: see `easyanim_client.errors`; nothing is left on disk then.
            OSError: the file cannot be written.
            RuntimeError: it was iterated before.
        """
        return self._begun(self._events())

    def _events(self) -> Iterator[Event]:
        with self._running() as call:
            for message in call:
                event = self._fold(message)
                if event is not None:
                    yield event
                self._context.check()  # the loop may go on in a fork
            yield self._finish()

    def result(self) -> Video:
        """Wait for the video; goes on with an iteration that is under way, and raises what it raises."""
        for _ in () if self._video else self._rest():
            pass
        return self._result()


class Client(BaseClient[Generation]):
    """Talks to one server; safe to share between threads. Closing it cancels what still runs.

    Args:
        address: Host and port, such as ``localhost:50051``.
        tls: False for plain text, True for TLS with gRPC's own roots, or credentials for anything else.
        timeout: Seconds that each generation may take; None is no limit.

    Raises:
        InvalidRequest: the address is not a host and a port.
        UnusableClient: gevent has patched threading and not gRPC, or this process is a fork of one that made a client.
    """

    def __init__(
        self, address: str, *, tls: bool | grpc.ChannelCredentials = False, timeout: float | None = None
    ) -> None:
        check_address(address)
        context = Context()
        secrets = credentials(tls)
        self._channel = (
            grpc.secure_channel(address, secrets, CHANNEL_OPTIONS, COMPRESSION)
            if secrets
            else grpc.insecure_channel(address, CHANNEL_OPTIONS, COMPRESSION)
        )
        super().__init__(self._channel, Generation, timeout, context)

    def info(
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
        with self._call(request_id, metadata) as sent:
            return self._read_info(self._ask_info(timeout, sent))

    def lint_prompt(
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
        with self._call(request_id, metadata) as sent:
            return prompt_reading(self._ask_lint(prompt, negative_prompt, timeout, sent))

    def health(self, *, timeout: float = INQUIRY_TIMEOUT, metadata: Given = ()) -> bool:
        """Whether the server is ready: its model loaded and every bucket warm.

        Args:
            timeout: Seconds to wait.
            metadata: Sent with the call, as of `generate`.

        Raises:
            EasyAnimError: the server cannot be reached or does not answer.
        """
        with self._call(None, metadata) as sent:
            return self._read_health(self._ask_health(timeout, sent))

    def close(self) -> None:
        """Close the connection; without effect in a fork, whose parent goes on with it."""
        if self._context.is_of_this_process:
            self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
