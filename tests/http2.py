"""A caller that speaks HTTP/2 by hand: what no client library does, such as half a message."""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
END_HEADERS = 4
MAX_CONCURRENT_STREAMS = 3
"""Of a SETTINGS frame."""


class Http2Caller:
    """One connection to a gRPC server."""

    def __init__(self, address: str, timeout: float = 20.0) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        self._received = b""

    def __enter__(self) -> Http2Caller:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def begin(self, path: str, message_bytes: int, sent: bytes, stream: int = 1) -> None:
        """Begin a call with a message of so many bytes, and send only these of them."""
        names = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers"}
        names["content-type"] = "application/grpc"
        block = b"".join(b"\x10" + text(name) + text(value) for name, value in names.items())
        prefix = b"\x00" + struct.pack(">I", message_bytes)
        self._socket.sendall(frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 0, stream, prefix + sent))

    def settings(self) -> dict[int, int]:
        """The server's."""
        while True:
            kind, flags, _, payload = self._next()
            if kind == SETTINGS and not flags:
                return dict(struct.iter_unpack(">HI", payload))

    def answer(self, stream: int = 1) -> bytes:
        """All header blocks and data of a call until the server has ended it; short texts stand in them as they are."""
        blocks = b""
        while True:
            kind, flags, number, payload = self._next()
            if number == stream and kind in (HEADERS, DATA):
                blocks += payload
                if flags & 1:  # END_STREAM
                    return blocks

    def wait_for_end(self) -> None:
        """Until the server has closed the connection."""
        while self._socket.recv(65536):
            pass

    def _next(self) -> tuple[int, int, int, bytes]:
        head = self._take(9)
        size = int.from_bytes(head[:3], "big")
        return head[3], head[4], int.from_bytes(head[5:], "big"), self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            more = self._socket.recv(65536)
            assert more, "the server closed the connection"
            self._received += more
        taken, self._received = self._received[:size], self._received[size:]
        return taken


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def text(value: str) -> bytes:
    """A string of HPACK, of less than 127 characters, without Huffman coding."""
    return bytes([len(value)]) + value.encode()
