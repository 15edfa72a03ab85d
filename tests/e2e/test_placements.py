"""A server whose weights wait on the host says so, and makes the video of one whose weights do not."""

from __future__ import annotations

import pytest

from easyanim.v1 import video_pb2 as pb
from easyanim_server.workers.process import DEFAULT_ENGINE
from tests.conftest import Stub
from tests.servers import RunningServer, settings

pytestmark = pytest.mark.long


def served(connect: object, placement: str) -> tuple[pb.GetServerInfoResponse, pb.Completed]:
    values = {"model": "builtin:tiny", "buckets": "32x48x5", "device": "cpu", "placement": placement}
    with RunningServer(settings(**values), DEFAULT_ENGINE) as server:
        stub: Stub = connect(server.address)  # type: ignore[operator]
        info = stub.GetServerInfo(pb.GetServerInfoRequest())
        request = pb.GenerateRequest(prompt="a cat", step_count=2, seed=1, output_mime_type="video/x-matroska")
        completed = list(stub.Generate(request))[-1].completed
    return info, completed


def test_the_placement_stands_in_server_info_and_receipt_and_changes_no_bit(connect: object) -> None:
    (full_info, full), (group_info, group) = (served(connect, name) for name in ("auto", "group_offload"))

    assert (full_info.placement, full.receipt.placement) == ("full", "full")
    assert (group_info.placement, group.receipt.placement) == ("group_offload", "group_offload")
    assert group_info.placement_reason == "group_offload as configured"
    (plan,) = group_info.buckets[0].plans
    assert (plan.placement, plan.vae_tiled, plan.measured_peak_device_memory_bytes) == ("group_offload", False, 0)
    assert full.receipt.latents_sha256 == group.receipt.latents_sha256 != ""
