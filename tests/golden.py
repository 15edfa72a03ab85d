"""Twelve requests with the videos and receipts that they gave: `python -m tests.golden` records them anew.

The bytes of a video depend on the processor and on libraries. On the machine that the recording names they are
compared exactly, on any other frame by frame within a few levels.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import torch
from google.protobuf.json_format import MessageToDict
from PIL import Image

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_server.config.processor import processor
from easyanim_server.engine.cache import store as cache
from tests import video_reader
from tests.e2e.processes import ROOT, ServerCommand, client

FILE = Path(__file__).with_name("golden.json")
PHOTOGRAPH = (ROOT / "examples" / "coffee.jpg").read_bytes()
MEASURED = "products in torch.float32"
"""The one choice that a server on the CPU makes by measuring, and that shows in a video's last bits."""

_DEMO: dict[str, Any] = {"seed": 7, "guidance_scale": 2, "step_count": 4, "bucket": "128x128", "frame_count": 9}
_TINY: dict[str, Any] = {"seed": 11, "guidance_scale": 6, "step_count": 3, "bucket": "32x48", "frame_count": 9}
_SOLVER = pb.Acceleration(solver="unipc", cache_threshold=0.0, guidance_start=0.0, guidance_end=0.6)

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny text": ("builtin:tiny", {**_TINY, "prompt": "a cat blinks"}),
    "tiny start": ("builtin:tiny", {**_TINY, "prompt": "steam rises", "start_image": PHOTOGRAPH}),
    "tiny start and end": (
        "builtin:tiny",
        {**_TINY, "prompt": "steam rises", "start_image": PHOTOGRAPH, "end_image": PHOTOGRAPH, "fit_policy": 2},
    ),
    "tiny Chinese, lossless": (
        "builtin:tiny",
        {**_TINY, "prompt": "一只猫在眨眼", "negative_prompt": "模糊", "output_mime_type": "video/x-matroska"},
    ),
    "tiny without guidance": ("builtin:tiny", {**_TINY, "prompt": "a dog runs", "guidance_scale": 1}),
    "tiny UniPC, portrait": (
        "builtin:tiny",
        {**_TINY, "prompt": "a dog runs", "bucket": "48x32", "step_count": 5, "acceleration": _SOLVER},
    ),
    "demo pan": ("builtin:demo", {**_DEMO, "prompt": "the camera pans left", "start_image": PHOTOGRAPH}),
    "demo zoom, Chinese": ("builtin:demo", {**_DEMO, "prompt": "镜头推近", "start_image": PHOTOGRAPH}),
    "demo text": ("builtin:demo", {**_DEMO, "prompt": "the red ball falls", "guidance_scale": 6}),
    "demo wide, draft": (
        "builtin:demo",
        {**_DEMO, "prompt": "tilt up", "bucket": "128x224", "profile": "draft", "start_image": PHOTOGRAPH},
    ),
    "demo VP9": (
        "builtin:demo",
        {**_DEMO, "prompt": "rotate clockwise", "start_image": PHOTOGRAPH, "output_mime_type": "video/webm"},
    ),
    "demo step cache": (
        "builtin:demo",
        {
            **_DEMO,
            "prompt": "zoom in",
            "start_image": PHOTOGRAPH,
            "step_count": 8,
            "acceleration": pb.Acceleration(solver="euler", cache_threshold=0.1),
        },
    ),
}
BUCKETS = {"builtin:tiny": "32x48x9,48x32x9", "builtin:demo": "128x128x9,128x224x9"}


def machine() -> str:
    """What the bits of a video depend on beside this project's code."""
    libraries = [f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "av", "pillow")]
    return ", ".join([processor(), torch.backends.cpu.get_cpu_capability(), *libraries])


def render() -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Every request's name, video and receipt, from a real server a model."""
    for model, buckets in BUCKETS.items():
        with tempfile.TemporaryDirectory() as folder:
            _choose_beforehand(Path(folder))
            flags = ["--model", model, "--buckets", buckets, "--cache-dir", folder, "--attention", "torch"]
            with ServerCommand(*flags, "--cpu-threads", "2") as server:
                assert client("health", "--address", server.address, "--wait", "120").returncode == 0
                with grpc.insecure_channel(server.address) as channel:
                    stub = video_pb2_grpc.VideoServiceStub(channel)
                    for name, (own, fields) in REQUESTS.items():
                        if own == model:
                            yield name, *_generate(stub, pb.GenerateRequest(**fields))


def _choose_beforehand(folder: Path) -> None:
    file = cache.version_folder(folder, torch.device("cpu")) / cache.CHOICES
    file.mkdir(parents=True)
    name = f"{hashlib.sha256(MEASURED.encode()).hexdigest()[:24]}.json"
    (file / name).write_text(json.dumps({"question": MEASURED, "answer": False}))


def _generate(stub: video_pb2_grpc.VideoServiceStub, request: pb.GenerateRequest) -> tuple[bytes, dict[str, Any]]:
    data, receipt = bytearray(), {}
    for event in stub.Generate(request, timeout=120):
        data += event.chunk.data
        if event.HasField("completed"):
            receipt = MessageToDict(event.completed.receipt, preserving_proto_field_name=True)
    return bytes(data), {name: value for name, value in receipt.items() if name not in ("versions", "device")}


def thumbnails(data: bytes) -> npt.NDArray[np.uint8]:
    """(frames, 8, 8, 3) RGB."""
    frames = video_reader.read(data).frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((8, 8), Image.Resampling.BOX)) for frame in frames])


def unpacked(text: str) -> npt.NDArray[np.uint8]:
    """The thumbnails of a recording."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).reshape(-1, 8, 8, 3)


def main() -> None:
    """Write `FILE`."""
    recorded = {
        name: {
            "sha256": hashlib.sha256(data).hexdigest(),
            "receipt": receipt,
            "thumbnails": base64.b85encode(zlib.compress(thumbnails(data).tobytes(), 9)).decode(),
        }
        for name, data, receipt in render()
    }
    document = {"machine": machine(), "command": "python -m tests.golden", "requests": recorded}
    FILE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
