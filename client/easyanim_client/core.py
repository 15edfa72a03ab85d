"""What Client and AsyncClient share: the channel's options, the arguments of a generation and its life."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_client.assembly import Assembly
from easyanim_client.calls import REQUEST_ID, Given, Metadata, checked_metadata, request_id_or_new
from easyanim_client.context import Context
from easyanim_client.errors import InvalidRequest, translated
from easyanim_client.messages import server_info
from easyanim_client.options import GenerateOptions, spelled_out
from easyanim_client.request import DEFAULT_MAX_REQUEST_BYTES, build_lint_request, build_request, check_size
from easyanim_client.results import Event, Video
from easyanim_client.saving import Overwrite
from easyanim_client.served import ServerInfo
from easyanim_client.tracing import call_span

if TYPE_CHECKING:
    from typing_extensions import Unpack

INQUIRY_TIMEOUT = 10.0
"""Seconds that `info` and `health` wait; neither needs the GPU."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A generation may be silent for seconds behind a proxy, and a lost peer must be noticed within the minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # by default a minute, which the timeout above does not shorten
    ("grpc.http2.max_pings_without_data", 0),
    # Servers restart; the default of up to two minutes between attempts outlasts that.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Events are small and chunks have 256 KiB. Requests are checked against the server's own limit instead.
    ("grpc.max_receive_message_length", 4 * 2**20),
    ("grpc.max_send_message_length", -1),
)
COMPRESSION = grpc.Compression.NoCompression
"""Pictures and videos are compressed already."""


_TARGET = re.compile(r"(dns|unix|unix-abstract|vsock|ipv4|ipv6|xds):.+")
"""Addresses with a scheme of gRPC's own, which are its to read."""
_HOST_PORT = re.compile(r"(\[[^\[\]]+\]|[^\[\]:/\s]+):(?P<port>[0-9]{1,5})")


def check_address(address: str) -> None:
    """Refuse what gRPC would take for the address of something else, or try for ever.

    Raises:
        InvalidRequest: it is not a host and a port.
    """
    match = _HOST_PORT.fullmatch(address)
    if not _TARGET.fullmatch(address) and not (match and 1 <= int(match["port"]) <= 65535):
        raise InvalidRequest.of_field("address", f"{address!r} must be HOST:PORT, such as localhost:50051")


def credentials(tls: bool | grpc.ChannelCredentials) -> grpc.ChannelCredentials | None:
    """What to open the channel with: None is plain text, True trusts the roots that gRPC brings."""
    if isinstance(tls, grpc.ChannelCredentials):
        return tls
    return grpc.ssl_channel_credentials() if tls else None


EventsT = TypeVar("EventsT")
ONCE = "a generation is iterated once, and leaving the loop cancels it; call generate() again for another one"


class BaseGeneration:
    """One generation: sent when iteration begins, and iterated once."""

    def __init__(
        self,
        start: Callable[[Metadata], Any],
        assembly: Assembly,
        closed: Callable[[], bool],
        context: Context,
        request_id: str,
    ) -> None:
        self._start = start
        self._assembly = assembly
        self._closed = closed
        self._context = context
        self._request_id = request_id
        self._call: Any = None
        self._iteration: Callable[[], Any] = lambda: None
        self._cancelled = False
        self._video: Video | None = None

    @property
    def video(self) -> Video | None:
        """The video once iteration has reached it, else None."""
        return self._video

    @property
    def request_id(self) -> str:
        """Finds the call in the server's log; failures and the video have it too."""
        return self._request_id

    def cancel(self) -> None:
        """Stop the work on the server; iteration then raises `Cancelled`. Does nothing after the end, and in a fork."""
        self._cancelled = True
        if self._call is not None and self._context.is_of_this_process:
            self._call.cancel()

    @contextmanager
    def _running(self) -> Iterator[Any]:
        """The call, from its start until it is left, in whatever way: then it is cancelled where it still runs."""
        if self._call is not None:
            raise RuntimeError(ONCE)
        # The file first: no work on the GPU for one that cannot be written.
        with translated(self._request_id), self._assembly, call_span("Generate") as metadata:
            self._context.check()
            self._call = self._start(metadata)
            # With the request, which is as large as its pictures: a call that fails is its own error, whose traceback
            # leads back to this object, and what is in such a cycle stays until the collector finds it.
            del self._start
            try:
                if self._cancelled:
                    self._call.cancel()
                yield self._call
            finally:
                if self._context.is_of_this_process:  # a fork that drops its copy must not end its parent's call
                    self._call.cancel()

    def _begun(self, events: EventsT) -> EventsT:
        """An iteration that `result` can go on with; held weakly, since a loop that is left has to close it."""
        if self._call is None:
            self._iteration = weakref.ref(events)
        return events

    def _rest(self) -> Any:
        """The iteration that somebody still holds, else a new one, which raises where there was one before."""
        events = self._iteration()
        return self if events is None else events

    def _result(self) -> Video:
        if self._video is None:
            raise RuntimeError(ONCE)  # what was held had been closed, or had failed
        return self._video

    def _fold(self, message: pb.GenerateResponse) -> Event | None:
        return self._assembly.fold(message)

    def _finish(self) -> Video:
        self._video = self._assembly.finish(self._request_id)
        return self._video


GenerationT = TypeVar("GenerationT", bound=BaseGeneration)


class BaseClient(Generic[GenerationT]):
    """A client without its channel: what is sent, and how answers are read."""

    def __init__(self, channel: Any, kind: type[GenerationT], timeout: float | None, context: Context) -> None:
        self._context = context
        self._videos: Any = video_pb2_grpc.VideoServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)
        self._kind = kind
        self._timeout = timeout
        self._max_request_bytes = DEFAULT_MAX_REQUEST_BYTES
        self._closed = False

    @spelled_out
    def generate(
        self,
        prompt: str,
        *,
        save_to: str | os.PathLike[str] | None = None,
        overwrite: Overwrite = False,
        timeout: float | None = None,
        request_id: str | None = None,
        metadata: Given = (),
        **options: Unpack[GenerateOptions],
    ) -> GenerationT:
        """Prepare one generation; it is sent when the result is iterated or asked for its `result`.

        Leaving the loop early, in any way, cancels the work on the server. What is left out takes the server's
        default, which the `Accepted` event reports.

        Args:
            prompt: What happens in the video.
            save_to: File to write; it appears only when complete and verified. Default: the video stays in memory.
            overwrite: What becomes of an older file of that name. False refuses to begin; where one appears while the
                video is made, the video takes the next free name, which `Video.path` has. True replaces it.
                ``"number"`` always takes the next free name, such as ``cat-2.mp4``.
            timeout: Seconds from sending to the last byte. Default: the client's.
            request_id: Names the call in the server's log: 1 to 128 letters, digits and ``._:/=+-``. Default: random.
            metadata: Sent with the call, such as ``{"authorization": "Bearer ..."}`` for a proxy.
            options: Pictures, size, steps and all else of the video, see `GenerateOptions`.

        Raises:
            InvalidRequest: an argument has no form in the contract; wrong values are reported while iterating.
            MessageTooLarge: the request is larger than the server takes.
            OSError: a picture cannot be read.
            TypeError: an argument is unknown or of another type.
        """
        target = None if save_to is None else Path(save_to)
        request = build_request(prompt, save_to=target, **options)
        check_size(request, self._max_request_bytes)
        deadline = self._timeout if timeout is None else timeout
        named, sent = _identified(request_id, metadata)
        return self._kind(
            lambda trace: self._videos.Generate(request, timeout=deadline, metadata=(*sent, *trace)),
            Assembly(target, overwrite),
            lambda: self._closed,
            self._context,
            named,
        )

    def _ask_lint(self, prompt: str, negative_prompt: str | None, timeout: float, metadata: Metadata) -> Any:
        request = build_lint_request(prompt, negative_prompt)
        return self._videos.LintPrompt(request, timeout=timeout, metadata=metadata)

    def _ask_info(self, timeout: float, metadata: Metadata) -> Any:
        return self._videos.GetServerInfo(pb.GetServerInfoRequest(), timeout=timeout, metadata=metadata)

    def _read_info(self, response: pb.GetServerInfoResponse) -> ServerInfo:
        info = server_info(response)
        self._max_request_bytes = info.limits.max_request_bytes or self._max_request_bytes
        return info

    def _ask_health(self, timeout: float, metadata: Metadata) -> Any:
        return self._health.Check(health_pb2.HealthCheckRequest(), timeout=timeout, metadata=metadata)

    @contextmanager
    def _call(self, request_id: str | None, metadata: Given) -> Iterator[Metadata]:
        """One unary call: what to send with it; its failures become ours and have its id."""
        named, sent = _identified(request_id, metadata)
        with translated(named):
            self._context.check()
            yield sent

    @staticmethod
    def _read_health(response: health_pb2.HealthCheckResponse) -> bool:
        return response.status == health_pb2.HealthCheckResponse.SERVING


def _identified(request_id: str | None, metadata: Given) -> tuple[str, Metadata]:
    """A call's id, and all of its metadata."""
    named = request_id_or_new(request_id)
    return named, (*checked_metadata(metadata), (REQUEST_ID, named))
