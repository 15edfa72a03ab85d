"""Requests that cost their senders next to nothing, made once and sent as they are."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from easyanim.v1 import video_pb2 as pb

MEBIBYTE = 2**20
SIDE = 1448
SCANS = 60_000
CHUNKS = 2_500_000


def many_scans() -> bytes:
    """A request with a progressive JPEG of one colour whose last scan, a few bytes, is there 60,000 times."""
    file = io.BytesIO()
    Image.new("L", (SIDE, SIDE), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    end = data.rindex(b"\xff\xd9")
    picture = data[:end] + data[last:end] * SCANS + data[end:]
    return pb.GenerateRequest(prompt="a cat blinks", start_image=picture, step_count=1).SerializeToString()


def many_chunks() -> bytes:
    """A request with a PNG of 2.5 million empty chunks before its pixels, 30 MB in all."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(64 * (1 + 64 * 3)))
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"teSt", b"") * CHUNKS + chunk(b"IDAT", pixels)
    picture += chunk(b"IEND", b"")
    return pb.GenerateRequest(prompt="a cat blinks", start_image=picture, step_count=1).SerializeToString()


def long_question() -> bytes:
    """A question on a prompt whose negative prompt has hundreds of terms, all of them within words of the prompt."""
    prompt = "n" + "n".join(str(number) for number in range(950))
    negative = ", ".join(f"n{number}" for number in range(650))
    return pb.LintPromptRequest(prompt=prompt, negative_prompt=negative).SerializeToString()


def nothing_in_names() -> bytes:
    """A request with 15 MB of NULs in each of two fields that hold names."""
    nothing = "\0" * 15_000_000
    return pb.GenerateRequest(prompt="a cat", bucket=nothing, output_mime_type=nothing).SerializeToString()


def large_picture() -> bytes:
    """A request of 30 MiB, nearly all of it a picture that is none."""
    return pb.GenerateRequest(
        prompt="a cat", start_image=b"\x89PNG\r\n\x1a\n" + bytes(30 * MEBIBYTE)
    ).SerializeToString()


def large_result(bucket: str) -> bytes:
    """A request whose result is as large as the model's results are: lossless, of the largest bucket."""
    request = pb.GenerateRequest(prompt="a cat", bucket=bucket, output_mime_type="video/x-matroska", step_count=1)
    return request.SerializeToString()
